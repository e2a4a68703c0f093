//! Copying bytes that another process may be writing at this very moment.
//!
//! To the compiler such bytes are poison: two plain accesses that race are undefined behaviour, so
//! neither a `&[u8]` nor `ptr::copy_nonoverlapping` may touch them. Atomic accesses of single bytes
//! or words may, but no compiler turns a loop of them into wide loads and stores.
//!
//! So the copy is the C library's `memcpy`, called from inline assembly: machine code that the
//! compiler cannot look into, to which it must therefore concede whatever a loop of relaxed atomic
//! byte copies could do, and no more is done. A racing writer can make the copied bytes a mixture
//! of old and new, in any order, and nothing else: `memcpy` never decides anything by the bytes that
//! it copies. It costs what `memcpy` costs.

/// Copies `len` bytes, of which one side may be written by others meanwhile.
///
/// # Safety
/// `from` is readable and `to` is writable for `len` bytes, they do not overlap, and nobody in this
/// process has a reference to the shared side that the copy would break.
#[inline]
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: this calls memcpy by the C calling convention: the three arguments are in its
    // registers, everything that a function may change is declared as changed, and inline assembly
    // is entered with the stack aligned for a call. The pointers are the caller's responsibility.
    unsafe {
        std::arch::asm!(
            "call {memcpy}",
            memcpy = in(reg) libc::memcpy,
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("rdx") len => _,
            clobber_abi("C"),
        );
    }
}

/// Copies `len` bytes, of which one side may be written by others meanwhile.
///
/// # Safety
/// `from` is readable and `to` is writable for `len` bytes, they do not overlap, and nobody in this
/// process has a reference to the shared side that the copy would break.
#[inline]
#[cfg(all(target_arch = "aarch64", not(miri)))]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: as on x86-64; the link register is among what the C convention lets a call change.
    unsafe {
        std::arch::asm!(
            "blr {memcpy}",
            memcpy = in(reg) libc::memcpy,
            inout("x0") to => _,
            inout("x1") from => _,
            inout("x2") len => _,
            clobber_abi("C"),
        );
    }
}

/// Copies `len` bytes, of which one side may be written by others meanwhile: byte by byte, for
/// machines that this library has no assembly for.
///
/// # Safety
/// `from` is readable and `to` is writable for `len` bytes, they do not overlap, and nobody in this
/// process has a reference to the shared side that the copy would break.
#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    use std::sync::atomic::{AtomicU8, Ordering};

    for i in 0..len {
        // SAFETY: `i` is below `len`, for which the caller answers.
        let from = unsafe { from.add(i) };
        // SAFETY: a byte is always aligned, and it is readable.
        let byte = unsafe { AtomicU8::from_ptr(from.cast_mut()) }.load(Ordering::Relaxed);
        // SAFETY: `i` is below `len`, for which the caller answers.
        let to = unsafe { to.add(i) };
        // SAFETY: a byte is always aligned, and it is writable.
        unsafe { AtomicU8::from_ptr(to) }.store(byte, Ordering::Relaxed);
    }
}
