//! The integration tests of the library. Each test runs in a process of its own, and the binary is
//! also every peer process: see `sinew_testkit`.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod anonymous;
mod barrier;
mod channel;
mod channel_attach;
mod channel_members;
mod channel_queue;
mod command;
mod condvar;
mod crash;
mod event_loop;
mod eventfd;
mod fd;
mod fifo;
mod file;
mod file_lock;
mod futex;
mod inet;
mod inotify;
mod interop;
mod mapping;
mod mechanism;
mod memfd;
mod mutex;
mod once;
mod pidfd;
mod pidfile;
mod pipe;
mod poller;
mod posix_mq;
mod posix_sem;
mod posix_shm;
mod process_vm;
mod ptrace;
mod rwlock;
mod shared;
mod signal;
mod signalfd;
mod splice;
mod suite;
mod sysv_mq;
mod sysv_sem;
mod sysv_shm;
mod task_queue;
mod timerfd;
mod unix;
mod wait;
mod wakeups;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = crash::command() {
        return code;
    }
    sinew_testkit::Suite::new()
        .add(anonymous::TESTS, anonymous::ROLES)
        .add(barrier::TESTS, barrier::ROLES)
        .add(channel_attach::TESTS, channel_attach::ROLES)
        .add(channel_queue::TESTS, channel_queue::ROLES)
        .add(channel::TESTS, channel::ROLES)
        .add(channel::ends::TESTS, channel::ends::ROLES)
        .add(channel::drops::TESTS, channel::drops::ROLES)
        .add(channel::hostile::TESTS, channel::hostile::ROLES)
        .add(channel::steady::TESTS, channel::steady::ROLES)
        .add(channel_members::TESTS, channel_members::ROLES)
        .add(channel_members::heirs::TESTS, channel_members::heirs::ROLES)
        .add(command::TESTS, command::ROLES)
        .add(condvar::TESTS, condvar::ROLES)
        .add(crash::TESTS, crash::ROLES)
        .add(fd::TESTS, fd::ROLES)
        .add(eventfd::TESTS, eventfd::ROLES)
        .add(event_loop::TESTS, event_loop::ROLES)
        .add(fifo::TESTS, fifo::ROLES)
        .add(file::TESTS, file::ROLES)
        .add(futex::TESTS, futex::ROLES)
        .add(file_lock::TESTS, file_lock::ROLES)
        .add(file_lock::fork::TESTS, file_lock::fork::ROLES)
        .add(file_lock::owner::TESTS, file_lock::owner::ROLES)
        .add(file_lock::upgrade::TESTS, file_lock::upgrade::ROLES)
        .add(inet::TESTS, inet::ROLES)
        .add(inet::tcp::TESTS, inet::tcp::ROLES)
        .add(inet::udp::TESTS, inet::udp::ROLES)
        .add(inotify::TESTS, inotify::ROLES)
        .add(inotify::path::TESTS, inotify::path::ROLES)
        .add(interop::locks::TESTS, interop::locks::ROLES)
        .add(interop::memory::TESTS, interop::memory::ROLES)
        .add(interop::pipes::TESTS, interop::pipes::ROLES)
        .add(interop::queues::TESTS, interop::queues::ROLES)
        .add(interop::semaphores::TESTS, interop::semaphores::ROLES)
        .add(interop::sockets::TESTS, interop::sockets::ROLES)
        .add(interop::systemd::TESTS, interop::systemd::ROLES)
        .add(mapping::TESTS, mapping::ROLES)
        .add(mechanism::TESTS, mechanism::ROLES)
        .add(memfd::TESTS, memfd::ROLES)
        .add(pidfd::TESTS, pidfd::ROLES)
        .add(pidfile::TESTS, pidfile::ROLES)
        .add(once::TESTS, once::ROLES)
        .add(mutex::TESTS, mutex::ROLES)
        .add(mutex::libc_list::TESTS, mutex::libc_list::ROLES)
        .add(pipe::TESTS, pipe::ROLES)
        .add(pipe::packet::TESTS, pipe::packet::ROLES)
        .add(pipe::sigpipe::TESTS, pipe::sigpipe::ROLES)
        .add(poller::TESTS, poller::ROLES)
        .add(posix_mq::TESTS, posix_mq::ROLES)
        .add(posix_mq::events::TESTS, posix_mq::events::ROLES)
        .add(posix_mq::limits::TESTS, posix_mq::limits::ROLES)
        .add(posix_mq::peers::TESTS, posix_mq::peers::ROLES)
        .add(posix_sem::TESTS, posix_sem::ROLES)
        .add(posix_shm::TESTS, posix_shm::ROLES)
        .add(process_vm::TESTS, process_vm::ROLES)
        .add(signal::TESTS, signal::ROLES)
        .add(signalfd::TESTS, signalfd::ROLES)
        .add(ptrace::TESTS, ptrace::ROLES)
        .add(rwlock::TESTS, rwlock::ROLES)
        .add(shared::TESTS, shared::ROLES)
        .add(splice::TESTS, splice::ROLES)
        .add(suite::TESTS, suite::ROLES)
        .add(sysv_mq::TESTS, sysv_mq::ROLES)
        .add(sysv_mq::messages::TESTS, sysv_mq::messages::ROLES)
        .add(sysv_mq::peers::TESTS, sysv_mq::peers::ROLES)
        .add(sysv_sem::TESTS, sysv_sem::ROLES)
        .add(sysv_shm::TESTS, sysv_shm::ROLES)
        .add(task_queue::TESTS, task_queue::ROLES)
        .add(timerfd::TESTS, timerfd::ROLES)
        .add(unix::TESTS, unix::ROLES)
        .add(unix::binding::TESTS, unix::binding::ROLES)
        .add(unix::credentials::TESTS, unix::credentials::ROLES)
        .add(unix::descriptors::TESTS, unix::descriptors::ROLES)
        .add(wait::TESTS, wait::ROLES)
        .add(wakeups::TESTS, wakeups::ROLES)
        .may_skip(include_str!("may-skip.txt"))
        .run()
}
