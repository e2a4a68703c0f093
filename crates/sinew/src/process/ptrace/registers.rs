//! The registers of a stopped tracee, by what they mean rather than by their names.

use super::sys::Raw;

/// The general registers of a tracee, as they were when it stopped. Changing them here changes
/// nothing there until [`Stopped::set_registers`](super::Stopped::set_registers).
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    pub(super) raw: Raw,
    /// A number that was set, where it is no register.
    #[cfg(target_arch = "aarch64")]
    pub(super) number: Option<i32>,
}

#[cfg(target_arch = "x86_64")]
impl Registers {
    pub(super) fn new(raw: Raw) -> Self {
        Self { raw }
    }

    /// The address of the next instruction.
    #[must_use]
    pub fn pc(&self) -> u64 {
        self.raw.rip
    }

    /// Sets the address of the next instruction.
    pub fn set_pc(&mut self, address: u64) {
        self.raw.rip = address;
    }

    /// The stack pointer.
    #[must_use]
    pub fn sp(&self) -> u64 {
        self.raw.rsp
    }

    /// Sets the stack pointer.
    pub fn set_sp(&mut self, address: u64) {
        self.raw.rsp = address;
    }

    /// The number of the system call that was entered; all ones outside of one.
    #[must_use]
    pub fn syscall_number(&self) -> u64 {
        self.raw.orig_rax
    }

    /// At the entry of a system call, makes it another; all ones make it none.
    pub fn set_syscall_number(&mut self, number: u64) {
        self.raw.orig_rax = number;
    }

    /// The six arguments of a system call.
    #[must_use]
    pub fn arguments(&self) -> [u64; 6] {
        let raw = &self.raw;
        [raw.rdi, raw.rsi, raw.rdx, raw.r10, raw.r8, raw.r9]
    }

    /// Sets the six arguments of a system call.
    pub fn set_arguments(&mut self, [a, b, c, d, e, f]: [u64; 6]) {
        let raw = &mut self.raw;
        (raw.rdi, raw.rsi, raw.rdx, raw.r10, raw.r8, raw.r9) = (a, b, c, d, e, f);
    }

    /// What a system call, or a function, returns: a negative error number where it failed.
    #[must_use]
    pub fn returned(&self) -> u64 {
        self.raw.rax
    }

    /// Sets what it returns.
    pub fn set_returned(&mut self, value: u64) {
        self.raw.rax = value;
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers {
    pub(super) fn new(raw: Raw) -> Self {
        Self { raw, number: None }
    }

    /// The address of the next instruction.
    #[must_use]
    pub fn pc(&self) -> u64 {
        self.raw.pc
    }

    /// Sets the address of the next instruction.
    pub fn set_pc(&mut self, address: u64) {
        self.raw.pc = address;
    }

    /// The stack pointer.
    #[must_use]
    pub fn sp(&self) -> u64 {
        self.raw.sp
    }

    /// Sets the stack pointer.
    pub fn set_sp(&mut self, address: u64) {
        self.raw.sp = address;
    }

    /// The number of the system call that was entered.
    #[must_use]
    pub fn syscall_number(&self) -> u64 {
        self.raw.regs[8]
    }

    /// At the entry of a system call, makes it another; all ones make it none.
    pub fn set_syscall_number(&mut self, number: u64) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the kernel takes an int; all ones stay so"
        )]
        let short = number as i32;
        self.number = Some(short);
        self.raw.regs[8] = number;
    }

    /// The six arguments of a system call.
    #[must_use]
    pub fn arguments(&self) -> [u64; 6] {
        let [a, b, c, d, e, f, ..] = self.raw.regs;
        [a, b, c, d, e, f]
    }

    /// Sets the six arguments of a system call.
    pub fn set_arguments(&mut self, arguments: [u64; 6]) {
        self.raw.regs[..6].copy_from_slice(&arguments);
    }

    /// What a system call, or a function, returns: a negative error number where it failed.
    #[must_use]
    pub fn returned(&self) -> u64 {
        self.raw.regs[0]
    }

    /// Sets what it returns.
    pub fn set_returned(&mut self, value: u64) {
        self.raw.regs[0] = value;
    }
}
