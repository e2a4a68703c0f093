//! The system calls on messages that rustix has no function for, as inlined instructions.
//!
//! A message costs a few hundred nanoseconds, so a tenth of that matters. The C library's own
//! functions turn the cancellation of threads on and off again around each call in a program with
//! threads, with a locked instruction each, and its `syscall` moves every argument once more.

#![allow(unsafe_code, reason = "a system call instruction")]

use std::ffi::c_long;

use rustix::io::Errno;

/// Makes a system call of at most five arguments.
///
/// # Safety
/// The arguments must be what the call of this number asks for: pointers to memory that the kernel
/// may read and write as it does.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn call(number: c_long, arguments: [usize; 5]) -> Result<usize, Errno> {
    let result: isize;
    let [a, b, c, d, e] = arguments;
    // SAFETY: the kernel changes rax, rcx and r11 and nothing else but the memory that the caller
    // vouches for; see syscall(2), "Architecture calling conventions".
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack, preserves_flags),
        );
    }
    check(result)
}

/// Makes a system call of at most five arguments.
///
/// # Safety
/// The arguments must be what the call of this number asks for: pointers to memory that the kernel
/// may read and write as it does.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) unsafe fn call(number: c_long, arguments: [usize; 5]) -> Result<usize, Errno> {
    let result: isize;
    let [a, b, c, d, e] = arguments;
    // SAFETY: the kernel changes x0 and nothing else but the memory that the caller vouches for; see
    // syscall(2), "Architecture calling conventions".
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            options(nostack, preserves_flags),
        );
    }
    check(result)
}

/// The kernel answers with the negative of an error number, which is at most 4095.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn check(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| {
        Errno::from_raw_os_error(i32::try_from(result.unsigned_abs()).unwrap_or(libc::EINVAL))
    })
}
