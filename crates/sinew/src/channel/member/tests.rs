//! Members in real processes: this test program is started again as [`peer`], which does what it is told
//! on its standard input and says what it sees on its standard output.

use std::cell::Cell;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::channel::folder::Folder;
use crate::mapping::Mapping;
use crate::memfd::{self, Memfd};

/// Says on standard output what it is told, and frees at once.
struct Says;

impl Pattern for Says {
    fn joined(&self, who: Who) {
        say(&format!("joined {} {}", who.slot, who.generation));
    }

    fn left(&self, who: Who) {
        say(&format!("left {} {}", who.slot, who.generation));
    }

    fn died(&self, who: Who) {
        say(&format!("died {} {}", who.slot, who.generation));
    }

    fn recover(&self, who: Who) -> bool {
        say(&format!("recover {} {}", who.slot, who.generation));
        true
    }

    fn seat(&self, hello: &Hello, _: &Table) -> Result<Seat> {
        match hello.lane {
            Some(13) => Err(Error::new(ErrorKind::InvalidInput, "join").because("unlucky")),
            lane => Ok(Seat::Any { lane: lane.unwrap_or(5) }),
        }
    }
}

/// Past the test harness, which keeps what tests print.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "@{text}");
    let _ = out.flush();
}

const AT: usize = 4096;
const HOLDER_AT: usize = 128;

fn map(memory: &Memfd) -> Arc<Mapping> {
    Arc::new(memory.map().unwrap())
}

fn object(places: usize) -> Object {
    let memory = memfd::Options::new().create("members", 3 * 4096).unwrap();
    let table = Table::new(map(&memory), AT, places, HOLDER_AT).unwrap();
    Object { memory: memory.into(), more: Vec::new(), table, facts: [7; FACTS] }
}

fn hello(lane: Option<u16>) -> Hello {
    Hello {
        pattern: 1,
        role: Role::Sender,
        lane,
        name: [0; NAME],
        types: [0; TYPES],
        facts: [3; FACTS],
        pid: 0,
        namespace: 0,
        started: 0,
    }
}

fn name(folder: &Path) -> Name {
    Name::new(Folder::at(folder).unwrap(), "members").unwrap()
}

fn create(folder: &Path, places: usize, pattern: Arc<dyn Pattern>) -> Result<Member> {
    let listener = name(folder).claim(Wait::FOREVER)?;
    Member::create(listener, object(places), Role::Receiver, 0, [0; NAME], pattern)
}

fn join(
    folder: &Path,
    lane: Option<u16>,
    exist: Wait<'_>,
    places: usize,
    pattern: &Arc<dyn Pattern>,
) -> Result<Member> {
    let mut attach = |welcome: &Welcome, memory: &OwnedFd, _: Vec<OwnedFd>| {
        if welcome.facts != [7; FACTS] {
            return Err(damaged("join", "the facts are others"));
        }
        let memory = Memfd::try_from(memory.try_clone().unwrap())?;
        let table = Table::new(map(&memory), AT, places, HOLDER_AT)?;
        Ok((table, Arc::clone(pattern), Vec::new()))
    };
    Member::join(&name(folder), None, &hello(lane), exist, Wait::FOREVER, &mut attach)
}

/// Leaves as many descriptors as a process has with this limit and its standard ones only, whatever this one
/// was started with.
fn limit(limit: u64) {
    let taken = |fd: &u64| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok();
    let last = (0..).filter(|fd| !taken(fd)).nth(limit as usize - 4);
    let maximum = getrlimit(Resource::Nofile).maximum;
    let both = Rlimit { current: last.map(|fd| fd + 1), maximum };
    setrlimit(Resource::Nofile, both).unwrap();
}

/// What a peer does. As a test of its own it does nothing.
#[test]
fn peer() {
    let Some(folder) = env::var_os("SINEW_MEMBER_FOLDER") else { return };
    let folder = Path::new(&folder);
    let places = env::var("SINEW_MEMBER_PLACES").unwrap().parse().unwrap();
    let pattern: Arc<dyn Pattern> = Arc::new(Says);
    let mut member = None;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let made = match words.next().unwrap() {
            "create" => Some(create(folder, places, Arc::clone(&pattern))),
            "join" => {
                let lane = words.next().map(|lane| lane.parse().unwrap());
                Some(join(folder, lane, Wait::NEVER, places, &pattern))
            }
            "wait" => Some(join(folder, None, Wait::FOREVER, places, &pattern)),
            "leave" => {
                member = None;
                say("gone");
                None
            }
            "limit" => {
                limit(words.next().unwrap().parse().unwrap());
                say("limited");
                None
            }
            other => panic!("{other}"),
        };
        match made {
            Some(Ok(new)) => {
                say(&format!("here {} {}", new.who().slot, new.who().generation));
                member = Some(new);
            }
            Some(Err(error)) => say(&format!("error {:?} {error}", error.kind())),
            None => {}
        }
    }
    drop(member);
}

/// One peer.
struct Process {
    child: Child,
    tell: ChildStdin,
    says: Receiver<String>,
    /// Whether it has said that it is here.
    arrived: Cell<bool>,
}

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

impl Process {
    fn start(folder: &Path, places: usize) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "channel::member::tests::peer", "--nocapture", "--test-threads=1"])
            .env("SINEW_MEMBER_FOLDER", folder)
            .env("SINEW_MEMBER_PLACES", places.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let tell = child.stdin.take().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (heard, says) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(std::result::Result::ok) {
                // The harness prints before the first line, on the same one.
                if let Some((_, text)) = line.split_once('@') {
                    let _ = heard.send(text.to_owned());
                }
            }
        });
        Self { child, tell, says, arrived: Cell::new(false) }
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.tell, "{what}").unwrap();
    }

    fn hear(&self) -> String {
        let said = self.says.recv_timeout(PATIENCE).expect("it says something");
        self.arrived.set(self.arrived.get() || said.starts_with("here "));
        said
    }

    /// What it says next is this.
    fn says(&self, what: &str) {
        assert_eq!(self.hear(), what);
    }

    /// It says this, and what comes before is not of interest.
    fn hears(&self, what: &str) {
        while self.hear() != what {}
    }

    /// What it says next is these, in any order.
    fn says_all(&self, what: &[&str]) {
        let mut said: Vec<_> = what.iter().map(|_| self.hear()).collect();
        said.sort();
        let mut expected = what.to_vec();
        expected.sort_unstable();
        assert_eq!(said, expected);
    }

    fn does(&mut self, what: &str, says: &str) {
        self.tell(what);
        self.says(says);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn a_newcomer_is_known_to_all_and_knows_all() {
    let folder = folder();
    let [mut a, mut b, mut c] = [(); 3].map(|()| Process::start(folder.path(), 8));
    a.does("create", "here 0 1");
    b.tell("join");
    b.says_all(&["here 1 1", "joined 0 1"]);
    a.says("joined 1 1");
    c.tell("join");
    c.says_all(&["here 2 1", "joined 0 1", "joined 1 1"]);
    a.says("joined 2 1");
    b.says("joined 2 1");
    // One that leaves is told of by the holder, and its place is free for the next.
    b.tell("leave");
    b.says("gone");
    a.says("left 1 1");
    a.says("recover 1 1");
    c.says("left 1 1");
    b.tell("join");
    b.says_all(&["here 1 2", "joined 0 1", "joined 2 1"]);
    a.says("joined 1 2");
    c.says("joined 1 2");
    for process in [&mut c, &mut b, &mut a] {
        process.tell("leave");
        process.hears("gone");
    }
    assert!(is_empty(folder.path()));
}

#[test]
fn a_death_is_told_to_all_and_its_place_is_made_good() {
    let folder = folder();
    let [mut a, mut b, mut c] = [(); 3].map(|()| Process::start(folder.path(), 8));
    a.does("create", "here 0 1");
    b.tell("join");
    b.says_all(&["here 1 1", "joined 0 1"]);
    c.tell("join");
    c.says_all(&["here 2 1", "joined 0 1", "joined 1 1"]);
    b.says("joined 2 1");
    b.kill();
    a.says("joined 1 1");
    a.says("joined 2 1");
    a.says("died 1 1");
    a.says("recover 1 1");
    c.says("died 1 1");
    let mut d = Process::start(folder.path(), 8);
    d.tell("join");
    d.says_all(&["here 1 2", "joined 0 1", "joined 2 1"]);
    a.says("joined 1 2");
    c.says("joined 1 2");
}

#[test]
fn a_survivor_takes_over_and_a_newcomer_joins() {
    let folder = folder();
    let [mut a, mut b, mut c] = [(); 3].map(|()| Process::start(folder.path(), 8));
    a.does("create", "here 0 1");
    b.tell("join");
    b.says_all(&["here 1 1", "joined 0 1"]);
    c.tell("join");
    c.says_all(&["here 2 1", "joined 0 1", "joined 1 1"]);
    b.says("joined 2 1");
    for turn in 2..6 {
        a.kill();
        let both = [b.hear(), c.hear()];
        assert!(both.iter().all(|said| said.starts_with("died ")), "{both:?}");
        // It waits until the name is had again.
        a = Process::start(folder.path(), 8);
        a.tell("wait");
        let said = [a.hear(), a.hear(), a.hear()];
        assert!(said.iter().any(|said| said.starts_with("here ")), "{turn}: {said:?}");
        // One of the two made good what was left, and both know the newcomer.
        let mut said = [Vec::new(), Vec::new()];
        for (process, said) in [&b, &c].into_iter().zip(&mut said) {
            while !said.last().is_some_and(|said: &String| said.starts_with("joined ")) {
                said.push(process.hear());
            }
        }
        let recovered = said.iter().flatten().filter(|said| said.starts_with("recover ")).count();
        assert_eq!(recovered, 1, "{said:?}");
        // The next to die is the one that holds the name now, every other time.
        let b_holds = said[0].iter().any(|said| said.starts_with("recover "));
        if turn % 2 == 0 {
            let holder = if b_holds { &mut b } else { &mut c };
            std::mem::swap(&mut a, holder);
        }
    }
}

#[test]
fn two_die_at_once_and_the_third_goes_on() {
    for places in [3, 8] {
        let folder = folder();
        let [mut a, mut b, mut c] = [(); 3].map(|()| Process::start(folder.path(), places));
        a.does("create", "here 0 1");
        b.tell("join");
        b.says_all(&["here 1 1", "joined 0 1"]);
        c.tell("join");
        c.says_all(&["here 2 1", "joined 0 1", "joined 1 1"]);
        a.child.kill().unwrap();
        b.child.kill().unwrap();
        a.child.wait().unwrap();
        b.child.wait().unwrap();
        let said: Vec<_> = (0..4).map(|_| c.hear()).collect();
        for what in ["died 0 1", "died 1 1", "recover 0 1", "recover 1 1"] {
            assert!(said.iter().any(|said| said == what), "{said:?}");
        }
        let mut d = Process::start(folder.path(), places);
        d.tell("wait");
        d.says_all(&["here 0 2", "joined 2 1"]);
        c.says("joined 0 2");
    }
}

#[test]
fn a_holder_that_leaves_hands_on_the_name() {
    let folder = folder();
    let [mut a, mut b, mut c] = [(); 3].map(|()| Process::start(folder.path(), 8));
    a.does("create", "here 0 1");
    b.tell("join");
    b.says_all(&["here 1 1", "joined 0 1"]);
    c.tell("join");
    c.says_all(&["here 2 1", "joined 0 1", "joined 1 1"]);
    b.says("joined 2 1");
    a.tell("leave");
    a.says_all(&["joined 1 1", "joined 2 1", "gone"]);
    b.says("left 0 1");
    b.says("recover 0 1");
    c.says("left 0 1");
    a.tell("wait");
    a.says_all(&["here 0 2", "joined 1 1", "joined 2 1"]);
    b.says("joined 0 2");
    c.says("joined 0 2");
    b.does("leave", "gone");
    a.says("left 1 1");
    c.says("left 1 1");
}

#[test]
fn a_name_that_nobody_has_is_not_found_or_waited_for() {
    let folder = folder();
    let mut a = Process::start(folder.path(), 2);
    a.tell("join");
    assert!(a.hear().starts_with("error NotFound"));
    let mut b = Process::start(folder.path(), 2);
    b.tell("wait");
    a.tell("create");
    a.hears("here 0 1");
    b.says_all(&["here 1 1", "joined 0 1"]);
    let mut c = Process::start(folder.path(), 2);
    c.tell("join");
    let said = c.hear();
    assert!(said.starts_with("error LimitReached") && said.contains("places"), "{said}");
    c.tell("join 13");
    let said = c.hear();
    assert!(said.starts_with("error InvalidInput") && said.contains("unlucky"), "{said}");
    c.tell("create");
    assert!(c.hear().starts_with("error AlreadyExists"));
}

#[test]
fn a_channel_goes_on_without_its_name() {
    let folder = folder();
    let [mut a, mut b, mut c] = [(); 3].map(|()| Process::start(folder.path(), 8));
    a.does("create", "here 0 1");
    b.tell("join");
    b.says_all(&["here 1 1", "joined 0 1"]);
    c.tell("join");
    c.says_all(&["here 2 1", "joined 0 1", "joined 1 1"]);
    b.says("joined 2 1");
    std::fs::remove_file(folder.path().join("members")).unwrap();
    a.kill();
    b.says("died 0 1");
    c.says("died 0 1");
    let mut d = Process::start(folder.path(), 8);
    // The heir puts the name back, and the other finds it by that.
    d.tell("wait");
    d.hears("here 0 2");
    b.hears("joined 0 2");
    c.hears("joined 0 2");
}

#[test]
fn few_descriptors_are_enough_and_none_is_told() {
    let folder = folder();
    let [mut a, mut b] = [(); 2].map(|()| Process::start(folder.path(), 100));
    a.does("limit 16", "limited");
    a.does("create", "here 0 1");
    b.does("limit 16", "limited");
    b.tell("join");
    b.says_all(&["here 1 1", "joined 0 1"]);
    a.says("joined 1 1");
    let mut more = Vec::new();
    let refused = loop {
        let mut next = Process::start(folder.path(), 100);
        next.tell("join");
        let said = next.hear();
        if said.starts_with("error ") {
            break said;
        }
        more.push(next);
        assert!(more.len() < 16);
    };
    assert!(refused.starts_with("error LimitReached"), "{refused}");
    assert!(!more.is_empty());
    // Everybody else goes on.
    drop(more.pop());
    b.kill();
    a.hears("died 1 1");
}

#[test]
fn those_who_knock_and_say_nothing_keep_nobody_out() {
    let folder = folder();
    let mut a = Process::start(folder.path(), 4);
    a.does("create", "here 0 1");
    let knocks: Vec<_> =
        (0..200).map(|_| name(folder.path()).connect_wait(Wait::FOREVER)).collect();
    // And one that says rubbish.
    let rubbish = name(folder.path()).connect_wait(Wait::FOREVER).unwrap();
    rubbish.socket.send_wait(b"rubbish", Wait::FOREVER).unwrap();
    let mut b = Process::start(folder.path(), 4);
    b.tell("join");
    b.says_all(&["here 1 1", "joined 0 1"]);
    drop(knocks);
}

#[test]
fn the_ends_of_a_pair_find_each_other() {
    let (tell, told) = channel();
    let pattern: Arc<dyn Pattern> = Arc::new(Tells(Mutex::new(tell)));
    let (a, b) = Seqpacket::pair().unwrap();
    let Object { memory, table, facts, .. } = object(2);
    let other = Object {
        memory: memory.try_clone().unwrap(),
        more: Vec::new(),
        table: table.clone(),
        facts,
    };
    let again = Object {
        memory: memory.try_clone().unwrap(),
        more: Vec::new(),
        table: table.clone(),
        facts,
    };
    let object = Object { memory, more: Vec::new(), table: table.clone(), facts };
    let one = Member::pair(a, object, 0, Role::Sender, 0, Arc::clone(&pattern)).unwrap();
    let (c, _d) = Seqpacket::pair().unwrap();
    let twice = Member::pair(c, again, 0, Role::Sender, 0, Arc::clone(&pattern)).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::InUse);
    let other = Member::pair(b, other, 1, Role::Receiver, 0, Arc::clone(&pattern)).unwrap();
    let mut joined = [told.recv().unwrap(), told.recv().unwrap()];
    joined.sort_unstable();
    assert_eq!(joined, ["joined 0 1", "joined 1 1"]);
    drop(other);
    assert_eq!(told.recv().unwrap(), "left 1 1");
    assert_eq!(told.recv().unwrap(), "recover 1 1");
    drop(one);
    assert_eq!(table.state(0).unwrap().kind, Kind::Left);
}

#[test]
fn an_end_that_nobody_attaches_any_more_has_left() {
    let (tell, told) = channel();
    let pattern: Arc<dyn Pattern> = Arc::new(Tells(Mutex::new(tell)));
    let (a, b) = Seqpacket::pair().unwrap();
    let one = Member::pair(a, object(2), 0, Role::Sender, 0, pattern).unwrap();
    drop(b);
    assert_eq!(told.recv().unwrap(), "left 1 1");
    assert_eq!(one.table().state(1).unwrap().kind, Kind::Left);
}

/// Numbers that are the same in every run: xorshift.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Kills at any moment of joining, leaving and taking over; then whoever is left knows whom it has to know.
#[test]
fn whoever_is_killed_when_the_others_find_each_other() {
    let turns = env::var("SINEW_MEMBER_TURNS").map_or(60, |turns| turns.parse().unwrap());
    let seed = env::var("SINEW_MEMBER_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15 ^ seed);
    let folder = folder();
    let mut anchor = Process::start(folder.path(), 16);
    anchor.tell("create");
    anchor.hears("here 0 1");
    let mut others: Vec<Process> = Vec::new();
    for _ in 0..turns {
        // Never more than there are places.
        for _ in 0..numbers.below(4).min(12 - others.len() as u64) {
            let mut new = Process::start(folder.path(), 16);
            new.tell("wait");
            others.push(new);
        }
        for _ in 0..numbers.below(1 << 18) {
            std::hint::spin_loop();
        }
        for _ in 0..(1 + numbers.below(3)).min(others.len() as u64) {
            let mut one = others.swap_remove(numbers.below(others.len() as u64) as usize);
            if numbers.below(4) == 0 {
                one.tell("leave");
                one.hears("gone");
            }
            one.child.kill().unwrap();
            if numbers.below(2) == 0 {
                one.child.wait().unwrap();
            }
        }
        // The one that stays is another every time: it has held the name, or not.
        if let Some(next) = others.pop() {
            while !next.arrived.get() {
                next.hear();
            }
            others.push(std::mem::replace(&mut anchor, next));
            others.retain_mut(|one| one.child.try_wait().unwrap().is_none());
            if numbers.below(2) == 0
                && let Some(old) = others.last_mut()
            {
                old.child.kill().unwrap();
                others.pop();
            }
        }
        // A newcomer that has arrived is known to the one that stays.
        let mut new = Process::start(folder.path(), 16);
        new.tell("wait");
        let here = loop {
            let said = new.hear();
            if let Some(place) = said.strip_prefix("here ") {
                break place.to_owned();
            }
        };
        anchor.hears(&format!("joined {here}"));
        new.kill();
        anchor.hears(&format!("died {here}"));
    }
    // All that is left leaves, and so does the name.
    for one in &mut others {
        one.tell("leave");
    }
    for one in &others {
        one.hears("gone");
    }
    anchor.tell("leave");
    anchor.hears("gone");
    assert!(is_empty(folder.path()));
}

/// Tells in this process.
struct Tells(Mutex<std::sync::mpsc::Sender<String>>);

impl Tells {
    fn tell(&self, what: &str, who: Who) {
        let _ = lock(&self.0).send(format!("{what} {} {}", who.slot, who.generation));
    }
}

impl Pattern for Tells {
    fn joined(&self, who: Who) {
        self.tell("joined", who);
    }

    fn left(&self, who: Who) {
        self.tell("left", who);
    }

    fn died(&self, who: Who) {
        self.tell("died", who);
    }

    fn recover(&self, who: Who) -> bool {
        self.tell("recover", who);
        true
    }

    fn seat(&self, _: &Hello, _: &Table) -> Result<Seat> {
        Ok(Seat::Any { lane: 0 })
    }
}
