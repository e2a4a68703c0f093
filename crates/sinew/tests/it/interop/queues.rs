//! POSIX and System V queues shared with programs of others.

use sinew::posix_mq::{self, Options};
use sinew::sysv_mq::{self, Key};
use sinew::wait::{Receives, Sends};
use sinew::{ErrorKind, RecvError};
use sinew_testkit::{Role, Skip, Test, roles, scratch, tests};

use super::{Compiled, Program, key, perl, printed, python, text};

pub(crate) const TESTS: &[Test] = tests![
    c_takes_and_fills_our_posix_queue,
    we_take_and_fill_a_posix_queue_of_c,
    python_takes_and_fills_our_posix_queue,
    we_take_and_fill_a_posix_queue_of_python,
    c_takes_and_fills_our_system_v_queue,
    we_take_and_fill_a_system_v_queue_of_c,
    python_takes_and_fills_our_system_v_queue,
    we_take_and_fill_a_system_v_queue_of_python,
    perl_takes_and_fills_our_system_v_queue,
    we_take_and_fill_a_system_v_queue_of_perl,
    ipcs_shows_our_queue_and_ipcrm_removes_it,
    we_use_a_queue_of_ipcmk,
];
pub(crate) const ROLES: &[Role] = roles![];

const C: &str = include_str!("../../interop/queues.c");

/// A name of this test, unlinked at its end whoever made it.
struct Name(String);

impl Name {
    fn new() -> Self {
        Self(format!("/sinew-interop-{}", std::process::id()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = posix_mq::unlink(&self.0);
    }
}

/// Our queue, which another program takes from and fills.
fn posix_ours(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let name = Name::new();
    let queue = Options::new().depth(4).message_bytes(64).create(&name.0).unwrap();
    queue.send(b"later").unwrap();
    queue.priority(32767).send(b"sooner").unwrap();
    let mut program = start(&name.0)?;
    program.expect("32767 sooner");
    program.expect("0 later");
    let mut buf = [0; 64];
    let got = queue.recv(&mut buf).unwrap();
    assert_eq!((&buf[..got.len], got.priority), (&b"answer"[..], 7));
    program.end();
    Ok(())
}

/// A queue of another program, which we take from and fill.
fn posix_theirs(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let name = Name::new();
    let mut program = start(&name.0)?;
    program.expect("ready");
    let queue = Options::new().open(&name.0).unwrap();
    let attributes = queue.attributes().unwrap();
    assert_eq!((attributes.depth, attributes.message_bytes, attributes.waiting), (3, 48, 1));
    let mut buf = [0; 48];
    let got = queue.recv(&mut buf).unwrap();
    assert_eq!((&buf[..got.len], got.priority), (&b"made elsewhere"[..], 3));
    queue.priority(5).send(b"answer").unwrap();
    program.say("go on");
    program.expect("5 answer");
    program.end();
    let error = Options::new().open(&name.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "its maker unlinked it");
    Ok(())
}

fn c_takes_and_fills_our_posix_queue() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    posix_ours(|name| Ok(c.start(&["mq-take", name])))
}

fn we_take_and_fill_a_posix_queue_of_c() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    posix_theirs(|name| Ok(c.start(&["mq-make", name])))
}

fn python_takes_and_fills_our_posix_queue() -> Result<(), Skip> {
    let script = "
import posix_ipc, sys
q = posix_ipc.MessageQueue(sys.argv[1])
for _ in range(2):
    data, priority = q.receive()
    print(priority, data.decode())
q.send(b'answer', priority=7)
";
    posix_ours(|name| Ok(Program::start(python("posix_ipc")?.args([script, name]))))
}

fn we_take_and_fill_a_posix_queue_of_python() -> Result<(), Skip> {
    let script = "
import posix_ipc, sys
q = posix_ipc.MessageQueue(sys.argv[1], posix_ipc.O_CREX, max_messages=3, max_message_size=48)
q.send(b'made elsewhere', priority=3)
print('ready')
sys.stdin.readline()
data, priority = q.receive()
q.unlink()
print(priority, data.decode())
";
    posix_theirs(|name| Ok(Program::start(python("posix_ipc")?.args([script, name]))))
}

fn system_v_ours(start: impl FnOnce(Key) -> Result<Program, Skip>) -> Result<(), Skip> {
    let key = key();
    let queue = sysv_mq::Options::new().create(key).unwrap().remove_on_drop();
    queue.of_type(4).send(b"second kind").unwrap();
    queue.of_type(5).send(b"first kind").unwrap();
    let mut program = start(key)?;
    program.expect("5 first kind");
    program.expect("4 second kind");
    let mut buf = [0; 64];
    let got = queue.recv(&mut buf).unwrap();
    assert_eq!((&buf[..got.len], got.mtype), (&b"answer"[..], 6));
    program.end();
    Ok(())
}

fn system_v_theirs(start: impl FnOnce(Key) -> Result<Program, Skip>) -> Result<(), Skip> {
    let key = key();
    let mut program = start(key)?;
    program.expect("ready");
    // Removed by its maker; here only if the test fails before that.
    let queue = sysv_mq::Options::new().open(key).unwrap().remove_on_drop();
    let mut buf = [0; 64];
    let got = queue.of_type(3).recv(&mut buf).unwrap();
    assert_eq!((&buf[..got.len], got.mtype), (&b"made elsewhere"[..], 3));
    queue.of_type(9).send(b"answer").unwrap();
    program.say("go on");
    program.expect("9 answer");
    program.end();
    assert_eq!(queue.recv(&mut buf), Err(RecvError::Closed), "its maker removed it");
    Ok(())
}

fn c_takes_and_fills_our_system_v_queue() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    system_v_ours(|key| Ok(c.start(&["msg-take", &key.get().to_string()])))
}

fn we_take_and_fill_a_system_v_queue_of_c() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    // The key is made by ftok on both sides.
    let path = scratch().join("key-of-both");
    std::fs::write(&path, "").unwrap();
    let mut program = c.start(&["msg-make", text(&path), "107"]);
    program.expect("ready");
    let queue = sysv_mq::Options::new().open(Key::ftok(&path, 107).unwrap()).unwrap();
    let queue = queue.remove_on_drop();
    std::fs::remove_file(&path).unwrap();
    let mut buf = [0; 64];
    let got = queue.recv(&mut buf).unwrap();
    assert_eq!((&buf[..got.len], got.mtype), (&b"made elsewhere"[..], 3));
    queue.of_type(9).send(b"answer").unwrap();
    program.say("go on");
    program.expect("9 answer");
    program.end();
    assert_eq!(queue.recv(&mut buf), Err(RecvError::Closed), "its maker removed it");
    Ok(())
}

fn python_takes_and_fills_our_system_v_queue() -> Result<(), Skip> {
    let script = "
import sys, sysv_ipc
q = sysv_ipc.MessageQueue(int(sys.argv[1]))
for kind in (5, 4):
    data, got = q.receive(type=kind)
    print(got, data.decode())
q.send(b'answer', type=6)
";
    system_v_ours(|key| {
        Ok(Program::start(python("sysv_ipc")?.args([script, &key.get().to_string()])))
    })
}

fn we_take_and_fill_a_system_v_queue_of_python() -> Result<(), Skip> {
    let script = "
import sys, sysv_ipc
q = sysv_ipc.MessageQueue(int(sys.argv[1]), sysv_ipc.IPC_CREX)
q.send(b'made elsewhere', type=3)
print('ready')
sys.stdin.readline()
data, got = q.receive()
q.remove()
print(got, data.decode())
";
    system_v_theirs(|key| {
        Ok(Program::start(python("sysv_ipc")?.args([script, &key.get().to_string()])))
    })
}

const PERL: &[&str] = &["strict", "IPC::SysV=IPC_CREAT,IPC_EXCL", "IPC::Msg"];

fn perl_takes_and_fills_our_system_v_queue() -> Result<(), Skip> {
    let script = r#"
$| = 1;
my $q = IPC::Msg->new($ARGV[0], 0) or die "msgget: $!";
for my $kind (5, 4) {
    my $got = $q->rcv(my $data, 64, $kind) or die "msgrcv: $!";
    print "$got $data\n";
}
$q->snd(6, "answer") or die "msgsnd: $!";
"#;
    system_v_ours(|key| Ok(Program::start(perl(PERL)?.args([script, &key.get().to_string()]))))
}

fn we_take_and_fill_a_system_v_queue_of_perl() -> Result<(), Skip> {
    let script = r#"
$| = 1;
my $q = IPC::Msg->new($ARGV[0], IPC_CREAT | IPC_EXCL | 0600) or die "msgget: $!";
$q->snd(3, "made elsewhere") or die "msgsnd: $!";
print "ready\n";
<STDIN>;
my $got = $q->rcv(my $data, 64, 0) or die "msgrcv: $!";
$q->remove or die "msgctl: $!";
print "$got $data\n";
"#;
    system_v_theirs(|key| Ok(Program::start(perl(PERL)?.args([script, &key.get().to_string()]))))
}

fn ipcs_shows_our_queue_and_ipcrm_removes_it() -> Result<(), Skip> {
    let key = key();
    let queue = sysv_mq::Options::new().create(key).unwrap().remove_on_drop();
    queue.send(b"twelve bytes").unwrap();
    let listed = printed("ipcs", &["-q"])?;
    let line = listed.lines().find(|l| l.starts_with(&format!("{:#010x}", key.get()))).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(fields[1], queue.id().to_string());
    assert_eq!(fields[3..], ["600", "12", "1"], "permissions, bytes, messages");

    printed("ipcrm", &["-q", &queue.id().to_string()])?;
    assert_eq!(queue.try_recv(&mut [0; 64]), Err(RecvError::Closed));
    Ok(())
}

fn we_use_a_queue_of_ipcmk() -> Result<(), Skip> {
    let said = printed("ipcmk", &["-Q"])?;
    let id = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let queue = sysv_mq::Queue::from_id(id).remove_on_drop();
    queue.of_type(2).send(b"into theirs").unwrap();
    let listed = printed("ipcs", &["-q", "-i", &id.to_string()])?;
    assert!(listed.contains("qnum=1"), "{listed}");
    let mut buf = [0; 64];
    let got = queue.recv(&mut buf).unwrap();
    assert_eq!((&buf[..got.len], got.mtype), (&b"into theirs"[..], 2));
    Ok(())
}
