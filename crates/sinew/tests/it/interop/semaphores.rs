//! POSIX and System V semaphores shared with programs of others.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use sinew::mapping::Mapping;
use sinew::posix_sem::{self, Options, Semaphore};
use sinew::sysv_sem::{self, Op, Set};
use sinew::wait::Waits;
use sinew::{ErrorKind, WaitError, memfd, posix_shm};
use sinew_testkit::{Role, Skip, Test, roles, tests};

use super::{Compiled, Program, key, perl, printed, python};
use crate::posix_sem::waiter_at;

pub(crate) const TESTS: &[Test] = tests![
    c_takes_and_posts_our_named_semaphore,
    we_take_and_post_a_named_semaphore_of_c,
    python_takes_and_posts_our_named_semaphore,
    we_take_and_post_a_named_semaphore_of_python,
    c_takes_and_posts_our_semaphore_in_a_memfd,
    c_takes_and_posts_our_semaphore_in_a_posix_segment,
    we_take_and_post_a_semaphore_of_c_in_a_memfd,
    we_take_and_post_a_semaphore_of_c_in_a_posix_segment,
    a_killed_waiter_in_c_harms_nobody,
    a_killed_waiter_of_ours_harms_no_c_program,
    c_and_we_take_turns_and_lose_nothing,
    c_takes_and_posts_our_system_v_semaphore,
    we_take_and_post_a_system_v_semaphore_of_c,
    what_a_killed_c_program_took_with_undo_comes_back,
    python_takes_and_posts_our_system_v_semaphore,
    we_take_and_post_a_system_v_semaphore_of_python,
    perl_takes_and_posts_our_system_v_semaphore,
    we_take_and_post_a_system_v_semaphore_of_perl,
    ipcs_shows_our_set_and_ipcrm_removes_it,
    we_use_a_set_of_ipcmk,
];
pub(crate) const ROLES: &[Role] = roles![];

const C: &str = include_str!("../../interop/semaphores.c");
const LONG: Duration = Duration::from_secs(60);
/// Where in a memory the semaphores lie.
const PLACE: usize = 128;

fn name() -> String {
    format!("/sinew-interop-{}", std::process::id())
}

/// What a semaphore can do, of whatever kind.
trait Common: Waits<Waited = ()> + Sync {
    fn add(&self);
    fn holds(&self) -> u32;
    fn sleepers(&self) -> usize;
}

impl Common for Semaphore {
    fn add(&self) {
        self.post().unwrap();
    }

    fn holds(&self) -> u32 {
        self.value()
    }

    fn sleepers(&self) -> usize {
        self.waiters() as usize
    }
}

impl Common for posix_sem::Unnamed<'_> {
    fn add(&self) {
        self.post().unwrap();
    }

    fn holds(&self) -> u32 {
        self.value()
    }

    fn sleepers(&self) -> usize {
        self.waiters() as usize
    }
}

impl Common for sysv_sem::At<'_> {
    fn add(&self) {
        self.post().unwrap();
    }

    fn holds(&self) -> u32 {
        self.value().unwrap().into()
    }

    fn sleepers(&self) -> usize {
        self.waiters().unwrap()
    }
}

fn until_sleepers(semaphore: &impl Common, count: usize) {
    while semaphore.sleepers() != count {
        std::thread::yield_now();
    }
}

/// A semaphore of value 2, and another program that has it open.
fn exchange(semaphore: &impl Common, mut program: Program) {
    program.expect("ready");
    assert_eq!(semaphore.holds(), 2);
    // What is there, both take.
    semaphore.wait().unwrap();
    program.say("take");
    program.expect("done");
    program.say("try");
    assert_eq!(program.hear(), "EAGAIN");
    assert_eq!(semaphore.try_wait(), Err(WaitError::WouldBlock));
    // It sleeps, and we post.
    program.say("take");
    until_sleepers(semaphore, 1);
    semaphore.add();
    program.expect("done");
    // We sleep, and it posts.
    std::thread::scope(|s| {
        let waiting = s.spawn(|| semaphore.wait_timeout(LONG));
        until_sleepers(semaphore, 1);
        program.say("post");
        program.expect("done");
        assert_eq!(waiting.join().unwrap(), Ok(()));
        let waiting = s.spawn(|| semaphore.wait());
        until_sleepers(semaphore, 1);
        program.say("post");
        program.expect("done");
        assert_eq!(waiting.join().unwrap(), Ok(()));
    });
    program.say("post");
    program.expect("done");
    program.say("value");
    program.expect("1 done");
    assert_eq!((semaphore.holds(), semaphore.sleepers()), (1, 0));
    program.end();
}

fn named_ours(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let semaphore = Options::new().value(2).create(name()).unwrap().unlink_on_drop();
    exchange(&*semaphore, start(&name())?);
    Ok(())
}

fn named_theirs(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let program = start(&name())?;
    // Its name appears when it is complete, in the C library too.
    let semaphore = loop {
        match Options::new().open(name()) {
            Ok(semaphore) => break semaphore.unlink_on_drop(),
            Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e}"),
        }
    };
    exchange(&*semaphore, program);
    Ok(())
}

fn c_takes_and_posts_our_named_semaphore() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    named_ours(|name| Ok(c.start(&["open", name, "0"])))
}

fn we_take_and_post_a_named_semaphore_of_c() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    named_theirs(|name| Ok(c.start(&["create", name, "2"])))
}

/// What a Python program does with a semaphore, by three functions.
const PYTHON_OBEY: &str = "
print('ready')
for line in sys.stdin:
    word = line.strip()
    if word == 'take':
        take(None)
    elif word == 'try':
        try:
            take(0)
        except busy:
            print('EAGAIN')
            continue
    elif word == 'post':
        post()
    else:
        print(value(), end=' ')
    print('done')
";

const PYTHON_POSIX: &str = "
busy, take, post = posix_ipc.BusyError, semaphore.acquire, semaphore.release
value = lambda: semaphore.value
";

fn python_takes_and_posts_our_named_semaphore() -> Result<(), Skip> {
    let open = "
import posix_ipc, sys
semaphore = posix_ipc.Semaphore(sys.argv[1])
";
    let script = [open, PYTHON_POSIX, PYTHON_OBEY].concat();
    named_ours(|name| Ok(Program::start(python("posix_ipc")?.args([&script, name]))))
}

fn we_take_and_post_a_named_semaphore_of_python() -> Result<(), Skip> {
    let make = "
import posix_ipc, sys
semaphore = posix_ipc.Semaphore(sys.argv[1], posix_ipc.O_CREX, initial_value=2)
";
    let script = [make, PYTHON_POSIX, PYTHON_OBEY].concat();
    named_theirs(|name| Ok(Program::start(python("posix_ipc")?.args([&script, name]))))
}

/// The path by which another process opens what is open here.
fn path_of(fd: impl AsFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_fd().as_raw_fd())
}

fn in_memory(map: &Mapping, path: &str, is_ours: bool) -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    let (options, place) = (Options::new().value(2), PLACE.to_string());
    if is_ours {
        let semaphore = options.create_at(map, PLACE).unwrap();
        exchange(&semaphore, c.start(&["at", path, &place]));
    } else {
        let mut program = c.start(&["init", path, &place]);
        program.expect("ready");
        let semaphore = options.open_at(map, PLACE).unwrap();
        program.say("value");
        program.expect("2 done");
        // The same again, which is told only once.
        drop(program);
        exchange(&semaphore, c.start(&["at", path, &place]));
    }
    Ok(())
}

fn in_a_memfd(is_ours: bool) -> Result<(), Skip> {
    let memory = memfd::Options::new().create("interop", 4096).unwrap();
    in_memory(&memory.map().unwrap(), &path_of(&memory), is_ours)
}

fn in_a_segment(is_ours: bool) -> Result<(), Skip> {
    let segment = posix_shm::Options::new().create(name(), 4096).unwrap().unlink_on_drop();
    in_memory(&segment.map().unwrap(), &format!("/dev/shm{}", name()), is_ours)
}

fn c_takes_and_posts_our_semaphore_in_a_memfd() -> Result<(), Skip> {
    in_a_memfd(true)
}

fn c_takes_and_posts_our_semaphore_in_a_posix_segment() -> Result<(), Skip> {
    in_a_segment(true)
}

fn we_take_and_post_a_semaphore_of_c_in_a_memfd() -> Result<(), Skip> {
    in_a_memfd(false)
}

fn we_take_and_post_a_semaphore_of_c_in_a_posix_segment() -> Result<(), Skip> {
    in_a_segment(false)
}

fn a_killed_waiter_in_c_harms_nobody() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    let semaphore = Options::new().create(name()).unwrap().unlink_on_drop();
    for word in ["take", "take in time"] {
        let dead = semaphore.waiters();
        let mut program = c.start(&["open", &name(), "0"]);
        program.expect("ready");
        program.say(word);
        while semaphore.waiters() == dead {
            std::thread::yield_now();
        }
        // By SIGKILL.
        drop(program);
        semaphore.post().unwrap();
        assert_eq!(semaphore.try_wait(), Ok(()), "the token is not the dead one's");
        let ours = waiter_at(&name());
        semaphore.post().unwrap();
        ours.expect("Ok(())");
        assert_eq!((semaphore.value(), semaphore.waiters()), (0, dead + 1));
    }
    Ok(())
}

fn a_killed_waiter_of_ours_harms_no_c_program() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    let semaphore = Options::new().create(name()).unwrap().unlink_on_drop();
    let mut program = c.start(&["open", &name(), "0"]);
    program.expect("ready");
    for round in 1..=3 {
        waiter_at(&name()).kill();
        assert_eq!(semaphore.waiters(), round);
        program.say("post");
        program.expect("done");
        program.say("take");
        program.expect("done");
        // Asleep in C, with a dead one before it.
        program.say("take in time");
        while semaphore.waiters() == round {
            std::thread::yield_now();
        }
        semaphore.post().unwrap();
        program.expect("done");
        // Asleep here, and a post from C.
        let ours = waiter_at(&name());
        program.say("post");
        program.expect("done");
        ours.expect("Ok(())");
    }
    program.end();
    Ok(())
}

fn c_and_we_take_turns_and_lose_nothing() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    // As a lock, which both want at once, again and again.
    let semaphore = Options::new().value(1).create(name()).unwrap().unlink_on_drop();
    let mut program = c.start(&["open", &name(), "0"]);
    program.expect("ready");
    program.say("many 50000");
    for _ in 0..50_000 {
        semaphore.wait().unwrap();
        semaphore.post().unwrap();
    }
    program.expect("done");
    program.end();
    assert_eq!((semaphore.value(), semaphore.waiters()), (1, 0));
    Ok(())
}

fn system_v_ours(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let key = key();
    let set = sysv_sem::Options::new().create(key, &[2, 7]).unwrap().remove_on_drop();
    exchange(&set.at(0), start(&key.get().to_string())?);
    assert_eq!(set.at(1).value().unwrap(), 7);
    Ok(())
}

fn system_v_theirs(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let key = key();
    let program = start(&key.get().to_string())?;
    let options = sysv_sem::Options::new().patience(LONG);
    let set = loop {
        match options.open(key) {
            Ok(set) => break set.remove_on_drop(),
            Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e}"),
        }
    };
    exchange(&set.at(0), program);
    Ok(())
}

fn c_takes_and_posts_our_system_v_semaphore() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    system_v_ours(|key| Ok(c.start(&["set", key, "0"])))
}

fn we_take_and_post_a_system_v_semaphore_of_c() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    system_v_theirs(|key| Ok(c.start(&["make-set", key, "2"])))
}

fn what_a_killed_c_program_took_with_undo_comes_back() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    let key = key();
    let set = sysv_sem::Options::new().create(key, &[1]).unwrap().remove_on_drop();
    let mut program = c.start(&["set", &key.get().to_string(), "0"]);
    program.expect("ready");
    program.say("take with undo");
    program.expect("done");
    std::thread::scope(|s| {
        let waiting = s.spawn(|| set.at(0).wait_timeout(LONG));
        until_sleepers(&set.at(0), 1);
        // By SIGKILL.
        drop(program);
        assert_eq!(waiting.join().unwrap(), Ok(()));
    });
    Ok(())
}

const PYTHON_SYSV: &str = "
busy, post = sysv_ipc.BusyError, semaphore.release
def take(time):
    semaphore.block = time is None
    semaphore.acquire()
value = lambda: semaphore.value
";

fn python_takes_and_posts_our_system_v_semaphore() -> Result<(), Skip> {
    let open = "
import sys, sysv_ipc
semaphore = sysv_ipc.Semaphore(int(sys.argv[1]))
";
    let script = [open, PYTHON_SYSV, PYTHON_OBEY].concat();
    let start = |key: &str| Ok(Program::start(python("sysv_ipc")?.args([&script, key])));
    let key = key();
    // It knows only sets of one.
    let set = sysv_sem::Options::new().create(key, &[2]).unwrap().remove_on_drop();
    exchange(&set.at(0), start(&key.get().to_string())?);
    Ok(())
}

fn we_take_and_post_a_system_v_semaphore_of_python() -> Result<(), Skip> {
    let make = "
import sys, sysv_ipc
semaphore = sysv_ipc.Semaphore(int(sys.argv[1]), sysv_ipc.IPC_CREX, initial_value=1)
semaphore.release()
";
    let script = [make, PYTHON_SYSV, PYTHON_OBEY].concat();
    system_v_theirs(|key| Ok(Program::start(python("sysv_ipc")?.args([&script, key]))))
}

/// What a Perl program does with a set.
const PERL_OBEY: &str = r#"
$| = 1;
print "ready\n";
while (my $word = <STDIN>) {
    chomp $word;
    my $ok = 1;
    if ($word eq "take") { $ok = $set->op(0, -1, 0) }
    elsif ($word eq "try") { $ok = $set->op(0, -1, IPC_NOWAIT) }
    elsif ($word eq "post") { $ok = $set->op(0, 1, 0) }
    else { print $set->getval(0), " " }
    print $ok ? "done\n" : $!{EAGAIN} ? "EAGAIN\n" : "$!\n";
}
"#;
const PERL: &[&str] =
    &["Errno", "IPC::Semaphore", "IPC::SysV=IPC_CREAT,IPC_EXCL,IPC_NOWAIT,S_IRUSR,S_IWUSR"];

fn perl_takes_and_posts_our_system_v_semaphore() -> Result<(), Skip> {
    let open = "my $set = IPC::Semaphore->new($ARGV[0], 2, 0) or die $!;";
    system_v_ours(|key| Ok(Program::start(perl(PERL)?.args([&[open, PERL_OBEY].concat(), key]))))
}

fn we_take_and_post_a_system_v_semaphore_of_perl() -> Result<(), Skip> {
    let make = "
my $set = IPC::Semaphore->new($ARGV[0], 2, IPC_CREAT | IPC_EXCL | S_IRUSR | S_IWUSR) or die $!;
$set->setall(1, 1);
$set->op(0, 1, 0);
";
    system_v_theirs(|key| Ok(Program::start(perl(PERL)?.args([&[make, PERL_OBEY].concat(), key]))))
}

fn ipcs_shows_our_set_and_ipcrm_removes_it() -> Result<(), Skip> {
    let key = key();
    let options = sysv_sem::Options::new().mode(0o640);
    let set = options.create(key, &[5, 6, 7]).unwrap().remove_on_drop();
    let id = set.id().to_string();
    let list = printed("ipcs", &["-s"])?;
    let line = list.lines().find(|l| l.split_whitespace().nth(1) == Some(&id));
    let fields: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(fields[0], format!("{:#010x}", key.get()));
    assert_eq!(fields[3..], ["640", "3"]);
    let detail = printed("ipcs", &["-s", "-i", &id])?;
    let value = |number: &str| {
        let line = detail.lines().find(|l| l.split_whitespace().next() == Some(number));
        line.and_then(|l| l.split_whitespace().nth(1)).map(str::to_owned)
    };
    assert_eq!([value("0"), value("2")], [Some("5".to_owned()), Some("7".to_owned())]);
    printed("ipcrm", &["-s", &id])?;
    assert_eq!(set.at(0).try_wait(), Err(WaitError::Closed));
    assert_eq!(set.remove().unwrap_err().kind(), ErrorKind::Closed);
    Ok(())
}

fn we_use_a_set_of_ipcmk() -> Result<(), Skip> {
    let made = printed("ipcmk", &["-S", "2"])?;
    let id = made.split_whitespace().last().unwrap();
    let set = Set::from_id(id.parse().unwrap()).remove_on_drop();
    // Nobody has used it, so it may not be complete; who made it knows that it is.
    let status = set.status().unwrap();
    assert_eq!((status.semaphores, status.last_change), (2, None));
    let options = sysv_sem::Options::new().patience(Duration::from_millis(10));
    assert_eq!(options.open(status.key).unwrap_err().kind(), ErrorKind::TimedOut);
    let again = options.as_is().open(status.key).unwrap();
    again.step(&[Op::post(0, 1), Op::post(1, 2)]).wait().unwrap();
    assert_eq!(set.values().unwrap(), [1, 2]);
    assert_eq!(options.open(status.key).unwrap(), *set);
    Ok(())
}
