//! The requests of ptrace(2), each as a function that is safe to call on any process: the kernel
//! refuses what is not this thread's stopped tracee, and touches only the memory that is lent here.

#![allow(unsafe_code, reason = "rustix has no ptrace; the requests take addresses")]

use std::mem::MaybeUninit;

use rustix::io::Errno;
use rustix::process::Pid;

/// The registers as the kernel lays them out for `NT_PRSTATUS`.
pub(super) type Raw = libc::user_regs_struct;

/// The numbers of linux/ptrace.h, whose types differ between the C libraries.
mod request {
    pub(super) const PEEKDATA: usize = 2;
    pub(super) const POKEDATA: usize = 5;
    pub(super) const GETEVENTMSG: usize = 0x4201;
    pub(super) const GETSIGINFO: usize = 0x4202;
    pub(super) const GETREGSET: usize = 0x4204;
    pub(super) const SETREGSET: usize = 0x4205;
    pub(super) const SEIZE: usize = 0x4206;
    pub(super) const INTERRUPT: usize = 0x4207;
    pub(super) const GET_SYSCALL_INFO: usize = 0x420E;
}

/// How a stopped tracee goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    Cont = 7,
    Step = 9,
    Detach = 17,
    Syscall = 24,
    Listen = 0x4208,
}

const NT_PRSTATUS: usize = 1;

/// `struct ptrace_syscall_info`, with the longest of its unions.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct SyscallInfo {
    /// 1 at entry, 2 at exit, 3 at a stop by seccomp.
    pub(super) op: u8,
    pad: [u8; 3],
    arch: u32,
    pc: u64,
    sp: u64,
    /// At entry number and six arguments; at exit value and, in the first byte, whether it is an error.
    pub(super) data: [u64; 8],
}

/// # Safety
/// `addr` and `data` are what `request` takes there; where it takes a pointer, it points to memory
/// that the request may read or write.
unsafe fn call(request: usize, pid: Pid, addr: usize, data: usize) -> Result<usize, Errno> {
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: the caller's promise. The raw call gives an error as -1 with errno, and nothing else so.
    let done = unsafe { libc::syscall(libc::SYS_ptrace, request, pid, addr, data) };
    usize::try_from(done)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

pub(super) fn seize(pid: Pid, options: usize) -> Result<(), Errno> {
    // SAFETY: takes no pointers.
    unsafe { call(request::SEIZE, pid, 0, options) }.map(drop)
}

pub(super) fn interrupt(pid: Pid) -> Result<(), Errno> {
    // SAFETY: takes no pointers.
    unsafe { call(request::INTERRUPT, pid, 0, 0) }.map(drop)
}

pub(super) fn resume(pid: Pid, how: Resume, signal: i32) -> Result<(), Errno> {
    let signal = usize::try_from(signal).map_err(|_| Errno::INVAL)?;
    // SAFETY: takes no pointers.
    unsafe { call(how as usize, pid, 0, signal) }.map(drop)
}

pub(super) fn event_message(pid: Pid) -> Result<usize, Errno> {
    let mut message = 0_usize;
    // SAFETY: the kernel writes one long, which `message` is as large as.
    unsafe { call(request::GETEVENTMSG, pid, 0, (&raw mut message).addr()) }?;
    Ok(message)
}

/// Code and sender of the signal for which it stopped.
pub(super) fn signal_info(pid: Pid) -> Result<(i32, i32), Errno> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel writes a siginfo_t or fails.
    unsafe { call(request::GETSIGINFO, pid, 0, info.as_mut_ptr().expose_provenance()) }?;
    // SAFETY: all bytes are set, to zero at first.
    let info = unsafe { info.assume_init() };
    // SAFETY: the field lies in the union at a place where bytes are in every kind of signal; that it
    // means a sender only where the code says so is for the caller.
    let sender = unsafe { info.si_pid() };
    Ok((info.si_code, sender))
}

pub(super) fn syscall_info(pid: Pid) -> Result<SyscallInfo, Errno> {
    let mut info = SyscallInfo::default();
    let size = size_of::<SyscallInfo>();
    // SAFETY: the kernel writes at most `size` bytes.
    unsafe { call(request::GET_SYSCALL_INFO, pid, size, (&raw mut info).expose_provenance()) }?;
    Ok(info)
}

pub(super) fn peek(pid: Pid, address: usize) -> Result<usize, Errno> {
    let mut word = 0_usize;
    // SAFETY: `address` is one of the tracee; the kernel writes one long to `word`.
    unsafe { call(request::PEEKDATA, pid, address, (&raw mut word).expose_provenance()) }?;
    Ok(word)
}

pub(super) fn poke(pid: Pid, address: usize, word: usize) -> Result<(), Errno> {
    // SAFETY: `address` is one of the tracee, which is never this process.
    unsafe { call(request::POKEDATA, pid, address, word) }.map(drop)
}

/// A part of the registers. How many bytes the kernel has of it.
fn get_set<T>(pid: Pid, kind: usize, into: &mut MaybeUninit<T>) -> Result<usize, Errno> {
    let mut piece = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: size_of::<T>() };
    let at = (&raw mut piece).expose_provenance();
    // SAFETY: the kernel writes at most `iov_len` bytes to `into`, and the length to `piece`.
    unsafe { call(request::GETREGSET, pid, kind, at) }?;
    Ok(piece.iov_len)
}

fn set_set<T>(pid: Pid, kind: usize, from: &T) -> Result<(), Errno> {
    let base = (&raw const *from).cast_mut().cast();
    let mut piece = libc::iovec { iov_base: base, iov_len: size_of::<T>() };
    let at = (&raw mut piece).expose_provenance();
    // SAFETY: the kernel reads `iov_len` bytes of `from`, and writes the length to `piece`.
    unsafe { call(request::SETREGSET, pid, kind, at) }.map(drop)
}

pub(super) fn registers(pid: Pid) -> Result<Raw, Errno> {
    let mut raw = MaybeUninit::<Raw>::zeroed();
    if get_set(pid, NT_PRSTATUS, &mut raw)? != size_of::<Raw>() {
        // A program of 32 bits has others.
        return Err(Errno::OPNOTSUPP);
    }
    // SAFETY: whole, and any bits are registers.
    Ok(unsafe { raw.assume_init() })
}

pub(super) fn set_registers(pid: Pid, raw: &Raw) -> Result<(), Errno> {
    set_set(pid, NT_PRSTATUS, raw)
}

/// On aarch64 the number of a call that was entered is no register.
#[cfg(target_arch = "aarch64")]
pub(super) fn set_syscall_number(pid: Pid, number: i32) -> Result<(), Errno> {
    const NT_ARM_SYSTEM_CALL: usize = 0x404;
    set_set(pid, NT_ARM_SYSTEM_CALL, &number)
}
