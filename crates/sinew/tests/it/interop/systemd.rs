//! systemd's own programs: notifications with their barrier, and socket activation both ways.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use sinew::command::{self, CommandExt};
use sinew::signal::Signal;
use sinew::unix::{Address, Datagram, SeqpacketListener, Socket, StreamListener};
use sinew::wait::{Accepts, Connects, Receives, Sends};
use sinew::{ErrorKind, RecvError};
use sinew_testkit::{Link, Role, Skip, Test, roles, scratch, skip, tests};

use super::text;
use crate::command::restore_link_at_three;
use crate::pipe::until_asleep;

pub(crate) const TESTS: &[Test] = tests![
    a_notification_comes_with_credentials,
    a_notification_comes_over_an_abstract_address,
    a_barrier_ends_when_its_descriptor_is_closed,
    a_barrier_ends_where_no_descriptor_is_wanted,
    activated_streams_have_their_names,
    an_activated_seqpacket_keeps_boundaries,
    an_activated_datagram_socket_has_what_came_before,
    an_accepted_connection_is_handed_over,
    an_accepted_connection_is_standard_input_for_inetd,
    what_we_give_goes_through_systemd,
];
pub(crate) const ROLES: &[Role] =
    roles![streams, seqpacket, datagram, connection, inetd, passed_on];

const PATIENCE: Duration = Duration::from_secs(30);

/// A file that is gone at the end.
struct At(PathBuf);

impl At {
    fn new(name: &str) -> Self {
        Self(scratch().join(name))
    }

    fn address(&self) -> Address {
        Address::path(&self.0).unwrap()
    }
}

impl Drop for At {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `systemd-notify`, told where to.
fn notify(to: &str, arguments: &[&str]) -> Result<Child, Skip> {
    let mut command = Command::new("systemd-notify");
    command.env("NOTIFY_SOCKET", to).args(arguments).die_with_parent(Signal::KILL);
    match command.spawn() {
        Ok(child) => Ok(child),
        Err(error) => skip(format!("systemd-notify does not run here: {error}"))
            .map(|()| unreachable!("it was skipped")),
    }
}

/// The next notification: the lines, what its sender says it is, and the descriptors.
fn next(socket: &Datagram) -> (Vec<String>, sinew::unix::ClaimedCredentials, Vec<OwnedFd>) {
    let mut buf = [0; 4096];
    let message = socket.fds(4).recv_timeout(&mut buf, PATIENCE).unwrap();
    let text = std::str::from_utf8(&buf[..message.length]).unwrap();
    let lines = text.lines().map(str::to_owned).collect();
    (lines, message.claimed.expect("it was asked for"), message.fds)
}

fn ready(socket: &Datagram, to: &str) -> Result<(), Skip> {
    socket.set_receive_claims(true).unwrap();
    let mut program = notify(to, &["--ready", "--status=all is well"])?;
    let (lines, claimed, fds) = next(socket);
    assert!(lines.contains(&"READY=1".to_owned()), "{lines:?}");
    assert!(lines.contains(&"STATUS=all is well".to_owned()), "{lines:?}");
    assert!(fds.is_empty());
    // It says the pid of who started it where the kernel allows that, else its own; nobody else's.
    let pids = [std::process::id(), program.id()];
    assert!(pids.contains(&claimed.pid.unsigned_abs()), "{claimed:?}, not {pids:?}");
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!((claimed.uid, claimed.gid), (uid, gid));
    let (lines, _, fds) = next(socket);
    assert_eq!((lines.as_slice(), fds.len()), (["BARRIER=1".to_owned()].as_slice(), 1));
    drop(fds);
    assert!(program.wait().unwrap().success());
    Ok(())
}

fn a_notification_comes_with_credentials() -> Result<(), Skip> {
    let at = At::new("notify");
    let socket = Datagram::bind(&at.address()).unwrap();
    ready(&socket, text(&at.0))
}

fn a_notification_comes_over_an_abstract_address() -> Result<(), Skip> {
    let name = format!("sinew-notify-{}", std::process::id());
    let socket = Datagram::bind(&Address::abstract_name(&name).unwrap()).unwrap();
    ready(&socket, &format!("@{name}"))
}

fn a_barrier_ends_when_its_descriptor_is_closed() -> Result<(), Skip> {
    let at = At::new("notify");
    let socket = Datagram::bind(&at.address()).unwrap();
    socket.set_receive_claims(true).unwrap();
    let mut program = notify(text(&at.0), &["--ready"])?;
    let (lines, ..) = next(&socket);
    assert_eq!(lines, ["READY=1"]);
    let (lines, _, fds) = next(&socket);
    assert_eq!(lines, ["BARRIER=1"]);
    // It waits for as long as somebody has the descriptor.
    until_asleep(rustix::process::Pid::from_child(&program));
    assert!(program.try_wait().unwrap().is_none());
    let copy = fds[0].try_clone().unwrap();
    drop(fds);
    assert!(program.try_wait().unwrap().is_none());
    drop(copy);
    assert!(program.wait().unwrap().success());
    Ok(())
}

fn a_barrier_ends_where_no_descriptor_is_wanted() -> Result<(), Skip> {
    let at = At::new("notify");
    let socket = Datagram::bind(&at.address()).unwrap();
    let mut buf = [0; 4096];
    // The kernel closes what nobody asks for.
    let mut program = notify(text(&at.0), &["--ready"])?;
    for line in ["READY=1", "BARRIER=1"] {
        let length = socket.recv_timeout(&mut buf, PATIENCE).unwrap();
        assert_eq!(std::str::from_utf8(&buf[..length]).unwrap().trim_end(), line);
    }
    assert!(program.wait().unwrap().success());
    // What is more than was asked for is closed by the library.
    let mut program = notify(text(&at.0), &["--ready"])?;
    assert!(socket.fds(0).recv_timeout(&mut buf, PATIENCE).is_ok());
    let refused = socket.fds(0).recv_timeout(&mut buf, PATIENCE);
    assert_eq!(refused.unwrap_err(), RecvError::Truncated);
    assert!(program.wait().unwrap().success());
    Ok(())
}

/// A running `systemd-socket-activate` that starts a role once something comes.
struct Activator {
    child: Child,
    says: BufReader<ChildStderr>,
    said: String,
}

impl Activator {
    /// With these options, which end with where it listens.
    fn start(role: &str, options: &[&str]) -> Result<Self, Skip> {
        let mut command = Self::command(role, options);
        match command.die_with_parent(Signal::KILL).spawn() {
            Ok(child) => Ok(Self::listening(child)),
            Err(error) => skip(format!("systemd-socket-activate does not run here: {error}"))
                .map(|()| unreachable!("it was skipped")),
        }
    }

    fn command(role: &str, options: &[&str]) -> Command {
        let mut command = Command::new("systemd-socket-activate");
        command.args(options).arg("-E");
        command.arg(format!("SINEW_TEST_ROLE=it::interop::systemd::{role}"));
        command.args(["-E", "SINEW_WITHOUT"]);
        // By its own name: /proc/self would be that of the activator. A role has its link at 3, and
        // nothing is there where the connection is standard input.
        if options.contains(&"--inetd") {
            command.args(["sh", "-c", "exec \"$0\" 3</dev/null"]);
        }
        command.arg(std::env::current_exe().unwrap());
        command.env_remove("SINEW_TEST_CASE").stderr(Stdio::piped());
        command
    }

    fn listening(mut child: Child) -> Self {
        let says = BufReader::new(child.stderr.take().unwrap());
        let mut this = Self { child, says, said: String::new() };
        this.until("Listening on");
        this
    }

    /// Reads on until it said this.
    #[track_caller]
    fn until(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(self.says.read_line(&mut line).unwrap(), 0, "{}", self.said);
            self.said += &line;
        }
    }

    /// It became the role, which ended well.
    #[track_caller]
    fn end(mut self) {
        let status = self.child.wait().unwrap();
        self.says.read_to_string(&mut self.said).unwrap();
        assert!(status.success(), "{status}: {}", self.said);
    }
}

impl Drop for Activator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The activated descriptors of a role, with these names.
fn given(names: &[&str]) -> Vec<OwnedFd> {
    restore_link_at_three();
    let fds = command::listen_fds().unwrap();
    assert_eq!(fds.iter().map(command::ListenFd::name).collect::<Vec<_>>(), names);
    fds.into_iter().map(OwnedFd::from).collect()
}

/// The first descriptor is owned twice: by the role, as its link, and by what was taken.
fn leave_to_the_link(first: impl Into<OwnedFd>) {
    assert_eq!(first.into().into_raw_fd(), 3);
}

/// Answers one connection of each with its name.
fn streams(_: &Link) {
    let mut fds = given(&["web", "admin console"]).into_iter();
    let web = StreamListener::from(fds.next().unwrap());
    let admin = StreamListener::from(fds.next().unwrap());
    for (listener, name) in [(&web, "web"), (&admin, "admin")] {
        let connection = listener.accept_timeout(PATIENCE).unwrap();
        assert_eq!(connection.peer_credentials().unwrap().pid(), parent());
        connection.send(name.as_bytes()).unwrap();
    }
    leave_to_the_link(web);
}

/// The activator becomes the role, so the parent of both is the test.
fn parent() -> Option<u32> {
    rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
}

fn activated_streams_have_their_names() -> Result<(), Skip> {
    let (web, admin) = (At::new("web"), At::new("admin"));
    let mut activator = Activator::start(
        "streams",
        &["--fdname=web:admin console", "-l", text(&web.0), "-l", text(&admin.0)],
    )?;
    activator.until("Listening on");
    let mut buf = [0; 16];
    for (at, name) in [(&web, "web"), (&admin, "admin")] {
        let connection = at.address().stream().connect().unwrap();
        let length = connection.exact_or_less(&mut buf);
        assert_eq!(&buf[..length], name.as_bytes());
    }
    activator.end();
    Ok(())
}

/// A name for it that std's own `UnixStream::recv` does not hide.
trait Reads {
    fn exact_or_less(&self, buf: &mut [u8]) -> usize;
}

impl Reads for UnixStream {
    fn exact_or_less(&self, buf: &mut [u8]) -> usize {
        Receives::recv_timeout(self, buf, PATIENCE).unwrap()
    }
}

fn seqpacket(_: &Link) {
    let listener = SeqpacketListener::from(given(&["jobs"]).remove(0));
    let connection = listener.accept_timeout(PATIENCE).unwrap();
    let mut buf = [0; 64];
    for _ in 0..3 {
        let length = connection.recv_timeout(&mut buf, PATIENCE).unwrap();
        connection.send(&buf[..length]).unwrap();
    }
    assert_eq!(connection.recv_timeout(&mut buf, PATIENCE), Err(RecvError::Closed));
    leave_to_the_link(listener);
}

fn an_activated_seqpacket_keeps_boundaries() -> Result<(), Skip> {
    let at = At::new("jobs");
    let options = ["--seqpacket", "--fdname=jobs", "-l", text(&at.0)];
    let activator = Activator::start("seqpacket", &options)?;
    let connection = at.address().seqpacket().connect().unwrap();
    // All are sent before the first is taken.
    for message in ["one", "two and more", "3"] {
        connection.send(message.as_bytes()).unwrap();
    }
    let mut buf = [0; 64];
    for message in ["one", "two and more", "3"] {
        let length = connection.recv_timeout(&mut buf, PATIENCE).unwrap();
        assert_eq!(&buf[..length], message.as_bytes());
    }
    drop(connection);
    activator.end();
    Ok(())
}

fn datagram(_: &Link) {
    let socket = Datagram::from(given(&["log"]).remove(0));
    let mut buf = [0; 64];
    for message in ["first", "", "third"] {
        let (length, from) = socket.with_sender().recv_timeout(&mut buf, PATIENCE).unwrap();
        assert_eq!(&buf[..length], message.as_bytes());
        socket.to(&from).send(b"seen").unwrap();
    }
    leave_to_the_link(socket);
}

fn an_activated_datagram_socket_has_what_came_before() -> Result<(), Skip> {
    let (at, back) = (At::new("log"), At::new("back"));
    let options = ["--datagram", "--fdname=log", "-l", text(&at.0)];
    let activator = Activator::start("datagram", &options)?;
    let socket = Datagram::bind(&back.address()).unwrap();
    for message in ["first", "", "third"] {
        socket.to(&at.address()).send(message.as_bytes()).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(socket.recv_timeout(&mut [0; 8], PATIENCE), Ok(4));
    }
    activator.end();
    Ok(())
}

fn connection(_: &Link) {
    let stream = UnixStream::from(given(&["connection"]).remove(0));
    Sends::send(&stream, b"for you alone").unwrap();
    leave_to_the_link(stream);
}

fn an_accepted_connection_is_handed_over() -> Result<(), Skip> {
    let at = At::new("socket");
    let mut activator =
        Activator::start("connection", &["--accept", "--fdname=connection", "-l", text(&at.0)])?;
    let mut buf = [0; 32];
    // A program each.
    for _ in 0..3 {
        let connection = at.address().stream().connect().unwrap();
        let length = connection.exact_or_less(&mut buf);
        assert_eq!(&buf[..length], b"for you alone");
        assert_eq!(Receives::recv_timeout(&connection, &mut buf, PATIENCE), Err(RecvError::Closed));
        activator.until("died with code 0");
    }
    Ok(())
}

fn inetd(_: &Link) {
    let stream =
        UnixStream::from(std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().unwrap());
    assert!(command::listen_fds().unwrap().is_empty());
    let mut buf = [0; 16];
    let length = stream.exact_or_less(&mut buf);
    Sends::send(&stream, &buf[..length]).unwrap();
}

fn an_accepted_connection_is_standard_input_for_inetd() -> Result<(), Skip> {
    let at = At::new("socket");
    let mut activator = Activator::start("inetd", &["--inetd", "--accept", "-l", text(&at.0)])?;
    let connection = at.address().stream().connect().unwrap();
    Sends::send(&connection, b"echo").unwrap();
    let mut buf = [0; 16];
    assert_eq!(connection.exact_or_less(&mut buf), 4);
    assert_eq!(Receives::recv_timeout(&connection, &mut buf, PATIENCE), Err(RecvError::Closed));
    activator.until("died with code 0");
    Ok(())
}

fn passed_on(_: &Link) {
    let ours = StreamListener::from(given(&["ours"]).remove(0));
    ours.accept_timeout(PATIENCE).unwrap().send(b"passed on").unwrap();
    leave_to_the_link(ours);
}

fn what_we_give_goes_through_systemd() -> Result<(), Skip> {
    let at = At::new("ours");
    let listener = StreamListener::bind(&at.address()).unwrap();
    let mut command = Activator::command("passed_on", &["--fdname=ours"]);
    let child = match command.spawn_with_listen_fds([("ours", listener)]) {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return skip("systemd-socket-activate does not run here");
        }
        Err(error) => panic!("{error}"),
    };
    drop(command);
    let activator = Activator::listening(child);
    let connection = at.address().stream().connect().unwrap();
    let mut buf = [0; 16];
    let length = connection.exact_or_less(&mut buf);
    assert_eq!(&buf[..length], b"passed on");
    activator.end();
    Ok(())
}
