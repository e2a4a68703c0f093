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
//! it copies. It costs what `memcpy` costs: on x86-64, 20 ns for
//! 4 KiB in the cache, where a loop over atomic words takes 74.

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
/// machines that this library has no assembly for, and for interpreters.
///
/// # Safety
/// `from` is readable and `to` is writable for `len` bytes, they do not overlap, and nobody in this
/// process has a reference to the shared side that the copy would break.
#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    for i in 0..len {
        // SAFETY: `i` is below `len`, for which the caller answers.
        let from = unsafe { from.add(i) };
        // An atomic load would be exact, but takes a pointer that may be written through too, and
        // the private side may come from a `&[u8]`.
        // SAFETY: readable, as the caller says, and every byte is a value.
        let byte = unsafe { from.read_volatile() };
        // SAFETY: `i` is below `len`, for which the caller answers.
        let to = unsafe { to.add(i) };
        // SAFETY: writable, as the caller says.
        unsafe { to.write_volatile(byte) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_alignment_is_copied_and_nothing_beyond() {
        let from: Vec<u8> = (0..64).map(|i| i * 3 + 1).collect();
        for start in 0..9 {
            for len in 0..40 {
                let mut to = [0_u8; 64];
                let (source, target) = (from[start..].as_ptr(), to[start..].as_mut_ptr());
                // SAFETY: `start` and `len` lie within both arrays, which are apart and of this
                // test alone.
                unsafe { copy(source, target, len) };
                assert_eq!(to[start..start + len], from[start..start + len]);
                assert!(to[..start].iter().chain(&to[start + len..]).all(|b| *b == 0));
            }
        }
    }
}
