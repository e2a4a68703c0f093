//! Handlers run when there is something, never after their end, and the thread goes with the last handle.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, eventfd};

use super::*;

/// Tells its token, and waits to be let go.
struct Told {
    tell: Mutex<Sender<u64>>,
    go: Mutex<Receiver<()>>,
}

impl Attend for Told {
    fn ready(&self, token: u64) {
        let _ = lock(&self.tell).send(token);
        let _ = lock(&self.go).recv();
    }
}

fn told() -> (Arc<Told>, Receiver<u64>, Sender<()>) {
    let (tell, tokens) = channel();
    let (let_go, go) = channel();
    (Arc::new(Told { tell: Mutex::new(tell), go: Mutex::new(go) }), tokens, let_go)
}

fn event(count: u32) -> OwnedFd {
    eventfd(count, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn own() -> Handle {
    Handle(Arc::new(Owner::start(true).unwrap()))
}

#[test]
fn what_is_ready_is_attended_to_with_its_token() {
    let service = own();
    let (handler, tokens, go) = told();
    let quiet = service.attend(event(0), 1, Interest::READABLE, handler.clone()).unwrap();
    let ready = service.attend(event(1), 2, Interest::READABLE, handler).unwrap();
    for _ in 0..3 {
        assert_eq!(tokens.recv(), Ok(2));
        go.send(()).unwrap();
    }
    // Nothing else than the handler holds up its end, and it may be in the middle of its work.
    drop(go);
    drop((ready, quiet));
}

#[test]
fn a_handler_does_not_run_after_the_end_and_is_waited_for() {
    let service = own();
    let (handler, tokens, go) = told();
    let attendance = service.attend(event(1), 7, Interest::READABLE, handler).unwrap();
    assert_eq!(tokens.recv(), Ok(7));
    let (started, start) = channel();
    thread::scope(|s| {
        s.spawn(move || {
            started.send(rustix::thread::gettid()).unwrap();
            drop(attendance);
        });
        let stat = format!("/proc/self/task/{}/stat", start.recv().unwrap().as_raw_nonzero());
        // It sleeps until the handler is done: one that ended has no file any more.
        loop {
            let stat = std::fs::read_to_string(&stat).unwrap();
            if lock(&service.0.shared.entries).of.is_empty() && stat.contains(") S ") {
                break;
            }
        }
        go.send(()).unwrap();
        drop(go);
    });
    drop(service);
    while tokens.try_recv().is_ok() {}
    assert_eq!(tokens.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
}

/// Ends its own attendance, and keeps its own service until then.
struct Ends {
    own: Mutex<Option<(Attendance<OwnedFd>, Handle)>>,
    ran: Mutex<Sender<()>>,
}

impl Attend for Ends {
    fn ready(&self, _: u64) {
        let own = lock(&self.own).take();
        drop(own);
        let _ = lock(&self.ran).send(());
    }
}

#[test]
fn a_handler_may_end_itself_and_the_service() {
    let service = own();
    let shared = Arc::downgrade(&service.0.shared);
    let (ran, runs) = channel();
    let handler = Arc::new(Ends { own: Mutex::new(None), ran: Mutex::new(ran) });
    {
        let mut own = lock(&handler.own);
        let attendance = service.attend(event(1), 0, Interest::READABLE, handler.clone()).unwrap();
        *own = Some((attendance, service));
    }
    runs.recv().unwrap();
    drop(handler);
    // The thread has let go of everything once it ends; it is the last to have it.
    assert!(runs.recv().is_err());
    while shared.upgrade().is_some() {
        thread::yield_now();
    }
}

#[test]
fn the_thread_is_gone_with_the_last_handle() {
    let service = own();
    let shared = Arc::downgrade(&service.0.shared);
    let second = service.clone();
    drop(service);
    let (handler, tokens, go) = told();
    let attendance = second.attend(event(1), 1, Interest::READABLE, handler).unwrap();
    assert_eq!(tokens.recv(), Ok(1));
    drop(go);
    drop(attendance);
    drop(second);
    assert!(shared.upgrade().is_none());
}

#[test]
fn interest_can_be_taken_away_and_given_back() {
    let service = own();
    let (handler, tokens, go) = told();
    let mut attendance = service.attend(event(1), 1, Interest::NONE, handler).unwrap();
    assert!(tokens.try_recv().is_err());
    attendance.want(Interest::READABLE).unwrap();
    assert_eq!(tokens.recv(), Ok(1));
    attendance.want(Interest::NONE).unwrap();
    go.send(()).unwrap();
    drop(go);
    let source = attendance.into_source();
    assert!(rustix::io::read(&source, &mut [0; 8]).is_ok());
}

/// Panics at its first run.
struct Panics(Mutex<Sender<u64>>);

impl Attend for Panics {
    fn ready(&self, token: u64) {
        let _ = lock(&self.0).send(token);
        assert_ne!(token, 13, "on purpose");
    }
}

#[test]
fn a_panic_ends_what_panicked_and_nothing_else() {
    let service = own();
    let (tell, tokens) = channel();
    let handler = Arc::new(Panics(Mutex::new(tell)));
    let bad = service.attend(event(1), 13, Interest::READABLE, handler.clone()).unwrap();
    let mut seen = tokens.recv();
    let good = service.attend(event(1), 1, Interest::READABLE, handler).unwrap();
    while seen == Ok(13) {
        seen = tokens.recv();
    }
    assert_eq!(seen, Ok(1));
    drop((good, bad));
}

#[test]
fn all_signals_are_blocked_in_the_thread() {
    let service = own();
    let (tell, masks) = channel();
    let handler = Arc::new(Mask(Mutex::new(tell)));
    let before = signal::Set::blocked().unwrap();
    let attendance = service.attend(event(1), 1, Interest::READABLE, handler).unwrap();
    assert_eq!(masks.recv().unwrap(), signal::Set::all());
    assert_eq!(signal::Set::blocked().unwrap(), before);
    drop(attendance);
}

struct Mask(Mutex<Sender<signal::Set>>);

impl Attend for Mask {
    fn ready(&self, _: u64) {
        let _ = lock(&self.0).send(signal::Set::blocked().unwrap());
    }
}
