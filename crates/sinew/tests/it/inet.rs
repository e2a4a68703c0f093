//! TCP and UDP over loopback: what holds of both.

use std::net::Ipv6Addr;
use std::os::fd::AsFd;

use rustix::io::{FdFlags, fcntl_getfd};
use sinew::ErrorKind;
use sinew::inet::{self, Listener, TcpOptions, Udp, UdpOptions};
use sinew::limits::Limit;
use sinew::wait::{Accepts, Receives, Sends};
use sinew_testkit::{Role, Skip, Test, roles, skip, steps, tests};

pub(crate) mod tcp;
pub(crate) mod udp;

pub(crate) const TESTS: &[Test] = tests![
    a_buffer_above_the_limit_names_it,
    everything_is_close_on_exec,
    ipv6_carries_the_same,
    a_message_takes_one_system_call,
    accepting_takes_one_system_call,
];
pub(crate) const ROLES: &[Role] = roles![];

fn a_buffer_above_the_limit_names_it() -> Result<(), Skip> {
    let beyond = |limit: Limit| usize::try_from(limit.value().unwrap()).unwrap() + 1;
    let send = beyond(Limit::WmemMax);
    let receive = beyond(Limit::RmemMax);
    let errors = [
        (TcpOptions::new().send_buffer(send).listen_loopback().unwrap_err(), "net.core.wmem_max"),
        (UdpOptions::new().send_buffer(send).bind_loopback().unwrap_err(), "net.core.wmem_max"),
        (TcpOptions::new().receive_buffer(receive).listen_loopback().unwrap_err(), "rmem_max"),
        (UdpOptions::new().receive_buffer(receive).bind_loopback().unwrap_err(), "rmem_max"),
    ];
    for (error, name) in errors {
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = TcpOptions::new().send_buffer(usize::MAX).listen_loopback().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    UdpOptions::new().receive_buffer(receive - 1).send_buffer(send - 1).bind_loopback().unwrap();
    Ok(())
}

fn everything_is_close_on_exec() -> Result<(), Skip> {
    fn check(fd: impl AsFd) {
        assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    }
    let listener = Listener::loopback().unwrap();
    check(inet::connect(listener.local_addr().unwrap()).unwrap());
    check(listener.accept().unwrap());
    check(listener);
    check(Udp::loopback().unwrap());
    Ok(())
}

fn ipv6_carries_the_same() -> Result<(), Skip> {
    let Ok(listener) = Listener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return skip("this host has no ::1");
    };
    let client = inet::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap();
    client.send(b"six").unwrap();
    assert_eq!(server.recv(&mut [0; 8]), Ok(3));
    drop(listener);
    let a = Udp::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let b = Udp::connect(a.local_addr().unwrap()).unwrap();
    b.send(b"six").unwrap();
    let from = (3, b.local_addr().unwrap());
    assert_eq!(a.with_sender().recv(&mut [0; 8]), Ok(from));
    a.to(from.1).send(b"seven").unwrap();
    assert_eq!(b.recv(&mut [0; 8]), Ok(5));
    Ok(())
}

/// Asserts that the operation is this one system call, with few instructions before it.
fn one_call(
    what: &str,
    number: libc::c_long,
    warm: usize,
    operation: impl FnMut(),
) -> Result<(), Skip> {
    let steps = match steps::measure(warm, operation) {
        Ok(steps) => steps,
        Err(error) => return skip(format!("cannot step: {error}")),
    };
    let numbers: Vec<i64> = steps.calls.iter().map(|call| call.number).collect();
    assert_eq!(numbers, [number], "{what}");
    let before = steps.calls[0].instructions_before;
    if cfg!(not(debug_assertions)) {
        assert!(before <= 100, "{what}: {before} instructions before the call");
    }
    Ok(())
}

fn a_message_takes_one_system_call() -> Result<(), Skip> {
    let (a, b) = inet::pair().unwrap();
    let mut buf = [0; 64];
    one_call("tcp send", libc::SYS_sendto, 1, || a.send(&[1; 64]).unwrap())?;
    one_call("tcp try_send", libc::SYS_sendto, 1, || a.try_send(&[1; 64]).unwrap())?;
    a.send(&[1; 256]).unwrap();
    one_call("tcp recv", libc::SYS_recvfrom, 1, || assert_eq!(b.recv(&mut buf), Ok(64)))?;
    one_call("tcp try_recv", libc::SYS_recvfrom, 1, || assert_eq!(b.try_recv(&mut buf), Ok(64)))?;

    let (a, b) = Udp::pair().unwrap();
    let server = Udp::loopback().unwrap();
    let address = server.local_addr().unwrap();
    let to = a.to(address);
    one_call("udp send", libc::SYS_sendto, 1, || a.send(&[1; 64]).unwrap())?;
    one_call("udp to", libc::SYS_sendto, 1, || to.send(&[1; 64]).unwrap())?;
    one_call("udp to, anew", libc::SYS_sendto, 1, || a.to(address).send(&[1; 64]).unwrap())?;
    for _ in 0..2 {
        a.send(&[1; 64]).unwrap();
        to.send(&[1; 64]).unwrap();
    }
    one_call("udp recv", libc::SYS_recvfrom, 1, || assert_eq!(b.recv(&mut buf), Ok(64)))?;
    one_call("udp with_sender", libc::SYS_recvfrom, 1, || {
        assert_eq!(server.with_sender().recv(&mut buf).unwrap().0, 64);
    })
}

fn accepting_takes_one_system_call() -> Result<(), Skip> {
    let listener = Listener::loopback().unwrap();
    let address = listener.local_addr().unwrap();
    let _clients = [inet::connect(address).unwrap(), inet::connect(address).unwrap()];
    let mut accepted = [const { None }; 2];
    let mut index = 0;
    one_call("accept", libc::SYS_accept4, 1, || {
        accepted[index] = Some(listener.accept().unwrap());
        index += 1;
    })
}
