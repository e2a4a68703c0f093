//! Sockets with programs of others: messages, descriptors, and the seals of a memfd that is passed.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use sinew::inet::{self, Listener, Udp};
use sinew::memfd::{self, Memfd, Seals};
use sinew::unix::{Address, Datagram, SeqpacketListener, Socket, StreamListener};
use sinew::wait::{Accepts, ByteStream, Connects, Receives, Sends};
use sinew::{ErrorKind, RecvError};
use sinew_testkit::{Role, Skip, Test, roles, scratch, tests};

use super::{Compiled, Program, printed, python, text};

pub(crate) const TESTS: &[Test] = tests![
    c_connects_to_our_stream,
    we_connect_to_a_stream_of_c,
    c_connects_to_our_seqpacket,
    we_connect_to_a_seqpacket_of_c,
    c_sends_to_our_datagram_socket,
    we_send_to_a_datagram_socket_of_c,
    python_connects_to_our_stream,
    we_connect_to_a_stream_of_python,
    python_connects_to_our_tcp,
    we_connect_to_tcp_of_python,
    python_sends_to_our_udp,
    we_send_to_udp_of_python,
    socat_connects_to_our_stream,
    we_connect_to_a_stream_of_socat,
];
pub(crate) const ROLES: &[Role] = roles![];

const C: &str = include_str!("../../interop/sockets.c");

/// A receiver of datagrams is not told that the sender died.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `sockets.c` seals a memfd with, and what `freeze` does.
fn all_seals() -> Seals {
    Seals::SHRINK | Seals::GROW | Seals::WRITE | Seals::SEAL
}

/// A memfd of ours that nobody can change any more.
fn frozen() -> memfd::Frozen {
    let memfd = memfd::Options::new().create("ours", 15).unwrap();
    memfd.write_at(0, b"in a memfd here").unwrap();
    memfd.freeze().unwrap()
}

/// Sends as the C program expects it, and checks what it saw.
fn send(socket: &impl Socket, program: &mut Program) {
    let memfd = frozen();
    socket.with_fds(&[memfd.as_fd()]).send(b"from here").unwrap();
    let seen = program.hear();
    let fields: Vec<&str> = seen.split('|').collect();
    assert_eq!((fields[0], fields[2], fields[3]), ("from here", "in a memfd here", "EPERM"));
    let seals: u32 = fields[1].parse().unwrap();
    let wanted = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    assert_eq!(seals & wanted.cast_unsigned(), wanted.cast_unsigned());
}

/// Receives what the C program sends, and checks the seals of the memfd.
fn recv(socket: &impl Socket) -> Address {
    let mut buf = [0; 64];
    let mut message = socket.fds(1).recv_timeout(&mut buf, PATIENCE).unwrap();
    assert_eq!(&buf[..message.length], b"from C");
    let memfd = Memfd::try_from(message.fds.remove(0)).unwrap();
    memfd.require(all_seals()).unwrap();
    assert_eq!(memfd.size().unwrap(), 15);
    assert_eq!(&memfd.frozen().unwrap()[..], b"in a memfd of C");
    message.sender
}

/// Runs a test with an address, whose file must be gone after it.
fn at_address(run: impl FnOnce(&Address, &str) -> Result<(), Skip>) -> Result<(), Skip> {
    let path = scratch().join("socket");
    run(&Address::path(&path).unwrap(), text(&path))
}

fn c_connects_to_our_stream() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    at_address(|address, path| {
        let listener = StreamListener::bind(address).unwrap();
        let mut program = c.start(&["connect", "stream", path]);
        let socket = listener.accept().unwrap();
        assert_eq!(socket.peer_credentials().unwrap().pid(), Some(program.pid()));
        recv(&socket);
        send(&socket, &mut program);
        program.end();
        assert_eq!(Receives::recv(&socket, &mut [0; 8]), Err(RecvError::Closed));
        Ok(())
    })
}

fn we_connect_to_a_stream_of_c() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    at_address(|address, path| {
        let mut program = c.start(&["listen", "stream", path]);
        program.expect("ready");
        let socket = address.stream().connect().unwrap();
        assert_eq!(socket.peer_credentials().unwrap().pid(), Some(program.pid()));
        send(&socket, &mut program);
        recv(&socket);
        program.end();
        assert_eq!(Receives::recv(&socket, &mut [0; 8]), Err(RecvError::Closed));
        Ok(())
    })
}

fn c_connects_to_our_seqpacket() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    at_address(|address, path| {
        let listener = SeqpacketListener::bind(address).unwrap();
        let mut program = c.start(&["connect", "seqpacket", path]);
        let socket = listener.accept().unwrap();
        recv(&socket);
        send(&socket, &mut program);
        program.end();
        assert_eq!(socket.recv(&mut [0; 8]), Err(RecvError::Closed));
        Ok(())
    })
}

fn we_connect_to_a_seqpacket_of_c() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    at_address(|address, path| {
        let mut program = c.start(&["listen", "seqpacket", path]);
        program.expect("ready");
        let socket = address.seqpacket().connect().unwrap();
        send(&socket, &mut program);
        recv(&socket);
        program.end();
        assert_eq!(socket.recv(&mut [0; 8]), Err(RecvError::Closed));
        Ok(())
    })
}

fn c_sends_to_our_datagram_socket() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    at_address(|address, path| {
        let socket = Datagram::bind(address).unwrap();
        let mut program = c.start(&["connect", "dgram", path]);
        let sender = recv(&socket);
        assert!(sender.as_abstract().is_some(), "{sender:?}");
        send(&socket.to(&sender), &mut program);
        program.end();
        Ok(())
    })
}

fn we_send_to_a_datagram_socket_of_c() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    at_address(|address, path| {
        let mut program = c.start(&["listen", "dgram", path]);
        program.expect("ready");
        let socket = Datagram::bind(&Address::unnamed()).unwrap();
        send(&socket.to(address), &mut program);
        assert_eq!(recv(&socket).as_path(), address.as_path());
        program.end();
        Ok(())
    })
}

/// What both Python programs on streams do with a connection.
const PYTHON_EXCHANGE: &str = "
data, fds, flags, _ = socket.recv_fds(connection, 64, 1)
print(data.decode(), os.pread(fds[0], 15, 0).decode())
socket.send_fds(connection, [b'from Python'], [sys.stdin.fileno()])
connection.close()
";

/// Our side of it: a frozen memfd there, the standard input of the program back.
fn exchange_with_python(socket: &impl Socket, mut program: Program) {
    let memfd = frozen();
    socket.with_fds(&[memfd.as_fd()]).send(b"from here").unwrap();
    program.expect("from here in a memfd here");
    let mut buf = [0; 64];
    let mut message = socket.fds(1).recv(&mut buf).unwrap();
    assert_eq!(&buf[..message.length], b"from Python");
    let input: OwnedFd = message.fds.remove(0);
    let error = Memfd::try_from(input).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "a pipe is no memfd: {error}");
    program.end();
}

fn python_connects_to_our_stream() -> Result<(), Skip> {
    let script = "
import os, socket, sys
connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect(sys.argv[1])
";
    at_address(|address, path| {
        let mut command = python("socket")?;
        let listener = StreamListener::bind(address).unwrap();
        let program = Program::start(command.args([&[script, PYTHON_EXCHANGE].concat(), path]));
        let socket = listener.accept().unwrap();
        exchange_with_python(&socket, program);
        Ok(())
    })
}

fn we_connect_to_a_stream_of_python() -> Result<(), Skip> {
    let script = "
import os, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind(sys.argv[1])
listener.listen()
print('ready')
connection, _ = listener.accept()
os.unlink(sys.argv[1])
";
    at_address(|address, path| {
        let mut command = python("socket")?;
        let mut program = Program::start(command.args([&[script, PYTHON_EXCHANGE].concat(), path]));
        program.expect("ready");
        let socket = address.stream().connect().unwrap();
        exchange_with_python(&socket, program);
        Ok(())
    })
}

fn python_connects_to_our_tcp() -> Result<(), Skip> {
    let script = "
import socket, sys
connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
connection.sendall(b'from Python')
print(connection.recv(64).decode())
";
    let mut command = python("socket")?;
    let listener = Listener::loopback().unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut program = Program::start(command.args([script, &port]));
    let socket = listener.accept().unwrap();
    let mut all = [0; 11];
    socket.exact().recv(&mut all).unwrap();
    assert_eq!(&all, b"from Python");
    socket.send(b"from here").unwrap();
    program.expect("from here");
    program.end();
    assert_eq!(Receives::recv(&socket, &mut [0; 8]), Err(RecvError::Closed));
    Ok(())
}

fn we_connect_to_tcp_of_python() -> Result<(), Skip> {
    let script = "
import socket
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1])
connection, _ = listener.accept()
print(connection.recv(64).decode())
connection.sendall(b'from Python')
";
    let mut program = Program::start(python("socket")?.arg(script));
    let port: u16 = program.hear().parse().unwrap();
    let socket = inet::connect(([127, 0, 0, 1], port)).unwrap();
    socket.send(b"from here").unwrap();
    program.expect("from here");
    let mut all = [0; 11];
    socket.exact().recv(&mut all).unwrap();
    assert_eq!(&all, b"from Python");
    program.end();
    assert_eq!(Receives::recv(&socket, &mut [0; 8]), Err(RecvError::Closed));
    Ok(())
}

fn python_sends_to_our_udp() -> Result<(), Skip> {
    let script = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'from Python', ('127.0.0.1', int(sys.argv[1])))
print(s.recv(64).decode())
";
    let mut command = python("socket")?;
    let socket = Udp::loopback().unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let mut program = Program::start(command.args([script, &port]));
    let mut buf = [0; 64];
    let (length, sender) = socket.with_sender().recv_timeout(&mut buf, PATIENCE).unwrap();
    assert_eq!(&buf[..length], b"from Python");
    socket.to(sender).send(b"from here").unwrap();
    program.expect("from here");
    program.end();
    Ok(())
}

fn we_send_to_udp_of_python() -> Result<(), Skip> {
    let script = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 0))
print(s.getsockname()[1])
data, sender = s.recvfrom(64)
print(data.decode())
s.sendto(b'from Python', sender)
";
    let mut program = Program::start(python("socket")?.arg(script));
    let port: u16 = program.hear().parse().unwrap();
    let socket = Udp::connect(([127, 0, 0, 1], port)).unwrap();
    socket.send(b"from here").unwrap();
    program.expect("from here");
    let mut buf = [0; 64];
    let length = socket.recv_timeout(&mut buf, PATIENCE).unwrap();
    assert_eq!(&buf[..length], b"from Python");
    program.end();
    Ok(())
}

fn socat_connects_to_our_stream() -> Result<(), Skip> {
    printed("socat", &["-V"])?;
    at_address(|address, path| {
        let listener = StreamListener::bind(address).unwrap();
        let to = format!("UNIX-CONNECT:{path}");
        let mut program = Program::start(Command::new("socat").args(["-", &to]));
        let socket = listener.accept().unwrap();
        program.say("from socat");
        let mut all = [0; 11];
        socket.exact().recv(&mut all).unwrap();
        assert_eq!(&all, b"from socat\n");
        socket.send(b"from here\n").unwrap();
        program.expect("from here");
        drop(socket);
        program.end();
        Ok(())
    })
}

fn we_connect_to_a_stream_of_socat() -> Result<(), Skip> {
    printed("socat", &["-V"])?;
    at_address(|address, path| {
        let own = format!("UNIX-LISTEN:{path}");
        let mut command = Command::new("socat");
        let mut program = Program::start(command.args(["-", &own]));
        let deadline = Instant::now() + PATIENCE;
        let socket = loop {
            match address.stream().connect() {
                Ok(socket) => break socket,
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Refused) => {
                    assert!(Instant::now() < deadline, "socat does not listen");
                    std::thread::yield_now();
                }
                Err(e) => panic!("{e}"),
            }
        };
        socket.send(b"from here\n").unwrap();
        program.expect("from here");
        program.say("from socat");
        let mut all = [0; 11];
        socket.exact().recv(&mut all).unwrap();
        assert_eq!(&all, b"from socat\n");
        drop(socket);
        program.end();
        Ok(())
    })
}
