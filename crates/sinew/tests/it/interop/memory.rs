//! Shared memory with programs of others: POSIX and System V segments, and mapped files.

use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};
use sinew::mapping::Mapping;
use sinew::{ErrorKind, file, posix_shm, sysv_shm};
use sinew_testkit::{Role, Skip, Test, roles, scratch, tests};

use super::{Compiled, Program, key, perl, printed, python, text};

pub(crate) const TESTS: &[Test] = tests![
    c_changes_our_posix_segment,
    we_change_a_posix_segment_of_c,
    python_changes_our_posix_segment,
    we_change_a_posix_segment_of_python,
    the_multiprocessing_of_python_changes_our_posix_segment,
    we_change_a_posix_segment_of_the_multiprocessing_of_python,
    c_changes_our_system_v_segment,
    we_change_a_system_v_segment_of_c,
    python_changes_our_system_v_segment,
    we_change_a_system_v_segment_of_python,
    perl_changes_our_system_v_segment,
    we_change_a_system_v_segment_of_perl,
    ipcs_shows_our_segment_and_ipcrm_removes_it,
    we_attach_a_segment_of_ipcmk,
    c_changes_our_mapped_file,
    we_change_a_mapped_file_of_c,
    python_changes_our_mapped_file,
    we_change_a_mapped_file_of_python,
];
pub(crate) const ROLES: &[Role] = roles![];

const C: &str = include_str!("../../interop/memory.c");

/// As `memory.c` has it: where the maker writes, where the other one answers, and the whole size.
const FIRST: usize = 0;
const ANSWER: usize = 4096;
const SIZE: usize = 8192;

fn read(map: &Mapping, at: usize) -> String {
    let mut bytes = [0; 64];
    map.read_at(at, &mut bytes).unwrap();
    let end = bytes.iter().position(|b| *b == 0).unwrap();
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

/// Our memory, which another program reads and writes.
fn ours(map: &Mapping, start: impl FnOnce() -> Result<Program, Skip>) -> Result<(), Skip> {
    map.write_at(FIRST, b"from here\0").unwrap();
    let mut program = start()?;
    program.expect(&format!("{} from here", map.len()));
    program.end();
    assert_eq!(read(map, ANSWER), "answer");
    Ok(())
}

/// Memory of another program that is running, which we read and write.
fn theirs(map: &Mapping, program: Program) {
    let mut program = program;
    assert_eq!(map.len(), SIZE);
    assert_eq!(read(map, FIRST), "made elsewhere");
    map.write_at(ANSWER, b"answer\0").unwrap();
    program.say("go on");
    program.expect("answer");
    program.end();
}

/// What a Python program does with `memory` that it has.
const PYTHON_CHANGE: &str = "
def text(at):
    return bytes(memory[at:at + 64]).split(b'\\0')[0].decode()
print(len(memory), text(0))
memory[4096:4103] = b'answer\\0'
";
const PYTHON_MAKE: &str = "
def text(at):
    return bytes(memory[at:at + 64]).split(b'\\0')[0].decode()
memory[0:15] = b'made elsewhere\\0'
print('ready')
sys.stdin.readline()
print(text(4096))
";

fn name() -> String {
    format!("/sinew-interop-{}", std::process::id())
}

fn posix_ours(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let name = name();
    let segment = posix_shm::Options::new().create(&name, SIZE as u64).unwrap().unlink_on_drop();
    let map = segment.map().unwrap();
    ours(&map, || start(&name))?;
    assert!(!segment.is_unlinked().unwrap(), "who only opens it leaves the name");
    Ok(())
}

fn posix_theirs(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let name = name();
    let mut program = start(&name)?;
    program.expect("ready");
    let segment = posix_shm::Options::new().open(&name).unwrap();
    theirs(&segment.map().unwrap(), program);
    assert!(segment.is_unlinked().unwrap(), "its maker unlinked it");
    let error = posix_shm::Options::new().open(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    Ok(())
}

fn c_changes_our_posix_segment() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    posix_ours(|name| Ok(c.start(&["posix-change", name])))
}

fn we_change_a_posix_segment_of_c() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    posix_theirs(|name| Ok(c.start(&["posix-make", name])))
}

fn python_changes_our_posix_segment() -> Result<(), Skip> {
    let open = "
import mmap, posix_ipc, sys
segment = posix_ipc.SharedMemory(sys.argv[1])
memory = mmap.mmap(segment.fd, segment.size)
";
    posix_ours(|name| {
        Ok(Program::start(python("posix_ipc")?.args([&[open, PYTHON_CHANGE].concat(), name])))
    })
}

fn we_change_a_posix_segment_of_python() -> Result<(), Skip> {
    let make = "
import mmap, posix_ipc, sys
segment = posix_ipc.SharedMemory(sys.argv[1], posix_ipc.O_CREX, size=8192)
memory = mmap.mmap(segment.fd, segment.size)
";
    let script = [make, PYTHON_MAKE, "segment.unlink()\n"].concat();
    posix_theirs(|name| Ok(Program::start(python("posix_ipc")?.args([&script, name]))))
}

/// Waits for the process that Python starts to keep watch over its segments, which ends a moment
/// after it.
fn with_python_and_its_tracker(test: impl FnOnce() -> Result<(), Skip>) -> Result<(), Skip> {
    set_child_subreaper(Some(getpid())).unwrap();
    test()?;
    while wait(WaitOptions::empty()).is_ok() {}
    Ok(())
}

/// Python before 3.13 unlinks at its end even what it only opened, unless it is told not to.
fn the_multiprocessing_of_python_changes_our_posix_segment() -> Result<(), Skip> {
    let open = "
import sys
from multiprocessing import resource_tracker, shared_memory
segment = shared_memory.SharedMemory(sys.argv[1])
resource_tracker.unregister(segment._name, 'shared_memory')
memory = segment.buf
";
    let script = [open, PYTHON_CHANGE, "del memory\nsegment.close()\n"].concat();
    with_python_and_its_tracker(|| {
        posix_ours(|name| {
            Ok(Program::start(python("multiprocessing.shared_memory")?.args([&script, name])))
        })
    })
}

fn we_change_a_posix_segment_of_the_multiprocessing_of_python() -> Result<(), Skip> {
    let make = "
import sys
from multiprocessing import shared_memory
segment = shared_memory.SharedMemory(sys.argv[1], create=True, size=8192)
memory = segment.buf
";
    let script = [make, PYTHON_MAKE, "del memory\nsegment.close()\nsegment.unlink()\n"].concat();
    with_python_and_its_tracker(|| {
        posix_theirs(|name| {
            Ok(Program::start(python("multiprocessing.shared_memory")?.args([&script, name])))
        })
    })
}

fn system_v_ours(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let key = key();
    let segment = sysv_shm::Options::new().create(key, SIZE as u64).unwrap().remove_on_drop();
    let map = segment.attach().unwrap();
    ours(&map, || start(&key.get().to_string()))?;
    assert_eq!(segment.status().unwrap().attached, 1);
    Ok(())
}

fn system_v_theirs(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let key = key();
    let mut program = start(&key.get().to_string())?;
    program.expect("ready");
    let segment = sysv_shm::Options::new().open(key).unwrap().remove_on_drop();
    theirs(&segment.attach().unwrap(), program);
    let error = sysv_shm::Options::new().open(key).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "its maker removed it");
    Ok(())
}

fn c_changes_our_system_v_segment() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    system_v_ours(|key| Ok(c.start(&["sysv-change", key])))
}

fn we_change_a_system_v_segment_of_c() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    system_v_theirs(|key| Ok(c.start(&["sysv-make", key])))
}

fn python_changes_our_system_v_segment() -> Result<(), Skip> {
    let script = "
import sys, sysv_ipc
segment = sysv_ipc.SharedMemory(int(sys.argv[1]))
print(segment.size, segment.read(64).split(b'\\0')[0].decode())
segment.write(b'answer\\0', offset=4096)
";
    system_v_ours(|key| Ok(Program::start(python("sysv_ipc")?.args([script, key]))))
}

fn we_change_a_system_v_segment_of_python() -> Result<(), Skip> {
    let script = "
import sys, sysv_ipc
segment = sysv_ipc.SharedMemory(int(sys.argv[1]), sysv_ipc.IPC_CREX, size=8192)
segment.write(b'made elsewhere\\0')
print('ready')
sys.stdin.readline()
print(segment.read(64, offset=4096).split(b'\\0')[0].decode())
segment.detach()
segment.remove()
";
    system_v_theirs(|key| Ok(Program::start(python("sysv_ipc")?.args([script, key]))))
}

const PERL: &[&str] = &["strict", "IPC::SysV=IPC_CREAT,IPC_EXCL", "IPC::SharedMem"];

fn perl_changes_our_system_v_segment() -> Result<(), Skip> {
    let script = r#"
$| = 1;
my $segment = IPC::SharedMem->new($ARGV[0], 0, 0) or die "shmget: $!";
$segment->attach or die "shmat: $!";
print $segment->stat->segsz, " ", unpack("Z*", $segment->read(0, 64)), "\n";
$segment->write("answer\0", 4096, 7) or die "write: $!";
$segment->detach;
"#;
    system_v_ours(|key| Ok(Program::start(perl(PERL)?.args([script, key]))))
}

fn we_change_a_system_v_segment_of_perl() -> Result<(), Skip> {
    let script = r#"
$| = 1;
my $segment = IPC::SharedMem->new($ARGV[0], 8192, IPC_CREAT | IPC_EXCL | 0600)
    or die "shmget: $!";
$segment->attach or die "shmat: $!";
$segment->write("made elsewhere\0", 0, 15) or die "write: $!";
print "ready\n";
<STDIN>;
print unpack("Z*", $segment->read(4096, 64)), "\n";
$segment->detach;
$segment->remove or die "shmctl: $!";
"#;
    system_v_theirs(|key| Ok(Program::start(perl(PERL)?.args([script, key]))))
}

fn ipcs_shows_our_segment_and_ipcrm_removes_it() -> Result<(), Skip> {
    let key = key();
    let segment = sysv_shm::Options::new().create(key, 10_000).unwrap().remove_on_drop();
    let map = segment.attach().unwrap();
    let listed = printed("ipcs", &["-m"])?;
    let line = listed.lines().find(|l| l.starts_with(&format!("{:#010x}", key.get()))).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(fields[1], segment.id().to_string());
    assert_eq!(fields[3..], ["600", "10000", "1"], "permissions, bytes, attached");

    printed("ipcrm", &["-m", &segment.id().to_string()])?;
    let error = sysv_shm::Options::new().open(key).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // It is gone for those who come; who has it keeps it.
    map.write_at(0, b"still here").unwrap();
    Ok(())
}

fn we_attach_a_segment_of_ipcmk() -> Result<(), Skip> {
    let said = printed("ipcmk", &["-M", "12288"])?;
    let id = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let segment = sysv_shm::Segment::from_id(id).remove_on_drop();
    let map = segment.attach().unwrap();
    assert_eq!(map.len(), 12_288);
    let listed = printed("ipcs", &["-m", "-i", &id.to_string()])?;
    assert!(listed.contains("nattch=1"), "{listed}");
    Ok(())
}

fn file_ours(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let path = scratch().join("shared");
    let file = file::Options::new().create(&path, SIZE as u64).unwrap();
    let result = ours(&file.map().unwrap(), || start(text(&path)));
    std::fs::remove_file(&path).unwrap();
    result
}

fn file_theirs(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let path = scratch().join("shared");
    let mut program = start(text(&path))?;
    program.expect("ready");
    let file = file::Options::new().open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    theirs(&file.map().unwrap(), program);
    Ok(())
}

fn c_changes_our_mapped_file() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    file_ours(|path| Ok(c.start(&["file-change", path])))
}

fn we_change_a_mapped_file_of_c() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    file_theirs(|path| Ok(c.start(&["file-make", path])))
}

fn python_changes_our_mapped_file() -> Result<(), Skip> {
    let open = "
import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    memory = mmap.mmap(file.fileno(), 0)
";
    let script = [open, PYTHON_CHANGE].concat();
    file_ours(|path| Ok(Program::start(python("mmap")?.args([&script, path]))))
}

fn we_change_a_mapped_file_of_python() -> Result<(), Skip> {
    let make = "
import mmap, sys
with open(sys.argv[1], 'x+b') as file:
    file.truncate(8192)
    memory = mmap.mmap(file.fileno(), 8192)
";
    let script = [make, PYTHON_MAKE].concat();
    file_theirs(|path| Ok(Program::start(python("mmap")?.args([&script, path]))))
}
