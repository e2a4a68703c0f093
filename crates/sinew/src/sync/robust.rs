//! The robust list of this thread: by it the kernel marks the words that a dying thread holds.
//!
//! A thread has one list, and libc has registered it with the kernel already, so its locks and ours
//! stand in the same one. Everything here follows the form that libc gave it: the head is asked
//! from the kernel, and its offset from an entry to the word is compared with [`Node`]'s.
//!
//! # The form of a word
//! The number of the thread that has it (0: nobody), and two bits: [`WAITERS`], somebody sleeps;
//! [`OWNER_DIED`]. When a thread dies, the kernel goes through its list. Each word that holds the thread's
//! number becomes `OWNER_DIED`, with `WAITERS` if that was set, and one sleeper is woken.
//!
//! # Death at any instruction
//! Between taking a word and its entry in the list, and between the entry's removal and the release,
//! the *pending slot* of the head names the word: the kernel looks there too. If nobody has the
//! pending word, one sleeper is woken, since the dead one may have been about to (since Linux 6.2 also
//! where the word has bits left; before, only where it is 0). The kernel reads the
//! list on behalf of the thread whose it is, after its last instruction: all that is needed between
//! the steps is that the compiler keeps their order.
//!
//! # Whose memory
//! Entries hold addresses of the process that has the lock, and stand in the memory that is shared.
//! Only their owner's thread and the kernel follow them, but whoever can write there can lead both
//! astray: a [`Node`] is for peers that are trusted. A [`Section`] has no entry, only the pending slot,
//! which no peer can reach: it is for memory of peers that are not, and for sections in which the
//! thread takes no other lock.
//!
//! Source: get_robust_list(2), the kernel's documentation of robust futexes and of their ABI, and
//! glibc's `nptl/descr.h`.

#![allow(unsafe_code, reason = "the robust list is libc's, linked by addresses")]

use std::cell::Cell;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::error::{Error, ErrorKind};

pub(crate) use super::futex::{OWNER_DIED, TID_MASK, WAITERS};

/// The largest number that the kernel gives to a thread (PID_MAX_LIMIT).
pub(crate) const LAST_TID: u32 = 1 << 22;

/// A word that can stand in the list of the thread which has it.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) word: AtomicU32,
    /// For the lock around it: the offset from word to links is libc's choice.
    pub(crate) own: [AtomicU32; 5],
    /// The address of the entry before this one: of its `next`.
    prev: AtomicU64,
    /// The address of the `next` of the entry after this one, and in bit 0 whether that one inherits priority.
    next: AtomicU64,
}

const _: () = {
    assert!(offset_of!(Node, word) == 0);
    assert!(offset_of!(Node, own) == 4);
    // libc writes `prev` of its neighbours at eight bytes before their `next`.
    assert!(offset_of!(Node, prev) == 24);
    assert!(offset_of!(Node, next) == 32);
    assert!(size_of::<Node>() == 40);
    assert!(size_of::<usize>() == 8);
};

/// From the entry, which is its `next`, to the word.
const OFFSET: i64 = -32;
/// Bit 0 of a link: the entry it leads to is locked with priority inheritance.
const INHERITS: u64 = 1;

/// `struct robust_list_head` of the kernel, in libc's memory.
#[repr(C)]
struct Head {
    next: AtomicU64,
    offset: AtomicU64,
    pending: AtomicU64,
}

const _: () = assert!(size_of::<Head>() == 24);

/// Why this thread has no list that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The kernel did not tell.
    Os(Errno),
    /// libc has registered none.
    NoList,
    /// libc's mutexes have another form.
    Offset(i64),
}

impl Refused {
    /// As the error number of a lock.
    pub(crate) fn errno(self) -> i32 {
        match self {
            Self::Os(errno) => errno.raw_os_error(),
            Self::NoList | Self::Offset(_) => Errno::OPNOTSUPP.raw_os_error(),
        }
    }

    /// As the error of a set-up.
    #[cold]
    pub(crate) fn error(self, operation: &'static str) -> Error {
        let unsupported = Error::new(ErrorKind::Unsupported, operation);
        match self {
            Self::Os(errno) => Error::os(operation, errno)
                .because("the kernel does not tell this thread's robust list"),
            Self::NoList => unsupported
                .because("this C library has registered no robust list for the thread")
                .fix("use glibc"),
            Self::Offset(offset) => unsupported
                .because(format!(
                    "the robust list of this C library has its words at {offset} bytes from \
                     an entry, not at {OFFSET}"
                ))
                .fix("use glibc"),
        }
    }
}

/// What a thread knows of itself, looked up once, and once more after a fork.
// In one cache line.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Known {
    head: *const Head,
    /// The word that a fork wipes.
    process: *const Process,
    /// Where the kernel writes the CPU that the thread runs on.
    cpu: *const AtomicU32,
    id: u64,
}

/// What a process knows of itself. It is in a page of its own, which a forked child finds zeroed.
#[repr(C)]
struct Process {
    generation: AtomicU32,
    namespace: AtomicU64,
}

/// The generation of a process whose forks leave no trace.
pub(crate) const UNSEEN: u32 = u32::MAX;

/// What a thread that knows nothing compares with, and every thread where pages are not wiped.
static UNKNOWN: Process = Process { generation: AtomicU32::new(0), namespace: AtomicU64::new(0) };
static PROCESS: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());
/// What a thread reads of whose CPU nobody tells.
static NO_CPU: AtomicU32 = AtomicU32::new(u32::MAX);
/// Goes on in a forked child, so that no generation comes twice.
static GENERATIONS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static KNOWN: Cell<Known> = const {
        Cell::new(Known {
            head: ptr::null(),
            process: &raw const UNKNOWN,
            cpu: &raw const NO_CPU,
            id: id(UNSEEN, 0),
        })
    };
}

/// This thread: its number, and its list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thread {
    head: *const Head,
    /// See [`id`]. One number, so that it stays in a register.
    id: u64,
}

/// A thread of a process: the thread's number alone can be the same in a forked child that has a pid
/// namespace of its own.
const fn id(generation: u32, tid: u32) -> u64 {
    (generation as u64) << 32 | tid as u64
}

const fn generation_of(id: u64) -> u32 {
    (id >> 32) as u32
}

impl Thread {
    /// The calling thread. No system call but at its first time, and the first after a fork.
    #[inline]
    pub(crate) fn current() -> Result<Self, Refused> {
        let known = KNOWN.get();
        // SAFETY: it points to `UNKNOWN` or to the page of `Process::page`, which is never unmapped.
        let process = unsafe { &*known.process };
        // Relaxed: only a fork changes it, and the child has this thread alone.
        if process.generation.load(Ordering::Relaxed) != generation_of(known.id) {
            Self::look_up()?;
        }
        let Known { head, id, .. } = KNOWN.get();
        Ok(Self { head, id })
    }

    /// The calling thread, if this is known without looking, and the process is of this generation. For
    /// who has seen [`current`](Self::current) in it before.
    #[inline(always)]
    pub(crate) fn of_generation(generation: u32) -> Option<Self> {
        let known = KNOWN.get();
        // SAFETY: as in `current`.
        let process = unsafe { &*known.process };
        let now = process.generation.load(Ordering::Relaxed);
        let Known { head, id, .. } = known;
        let is_it = now == generation && generation_of(id) == generation && generation != 0;
        is_it.then_some(Self { head, id })
    }

    /// The calling thread, if it is known without looking, and has this [`id`](Self::id).
    #[inline(always)]
    pub(crate) fn of_id(id: u64) -> Option<Self> {
        let known = KNOWN.get();
        // SAFETY: as in `current`.
        let process = unsafe { &*known.process };
        let now = process.generation.load(Ordering::Relaxed);
        // A thread that knows nothing, and one of a process whose forks leave no trace, has another generation.
        let is_it = known.id == id && now == generation_of(id);
        is_it.then_some(Self { head: known.head, id })
    }

    #[cold]
    #[inline(never)]
    fn look_up() -> Result<(), Refused> {
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let head = registered_head()?;
        let process = Process::page();
        let mut generation = process.generation.load(Ordering::Relaxed);
        if ptr::eq(process, &raw const UNKNOWN) {
            // Never that of the process: the next call looks again.
            generation = UNSEEN;
        } else if generation == 0 {
            // 0 means that nothing is known.
            let new = GENERATIONS.fetch_add(1, Ordering::Relaxed) % (UNSEEN - 1) + 1;
            generation = match process.generation.compare_exchange(
                0,
                new,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => new,
                Err(others) => others,
            };
        }
        KNOWN.set(Known { head, process, cpu: place_of_cpu(), id: id(generation, tid) });
        Ok(())
    }

    /// The kernel's number of it.
    #[inline]
    pub(crate) fn tid(self) -> u32 {
        self.id as u32
    }

    /// Both numbers in one: never 0, and below bit 31 of its lower half.
    #[inline]
    pub(crate) fn id(self) -> u64 {
        self.id
    }

    /// A number that changes when the process forks; never 0. [`UNSEEN`] where that cannot be seen.
    #[inline]
    pub(crate) fn generation(self) -> u32 {
        generation_of(self.id)
    }

    /// Fills the pending slot: from here on a death of this thread marks `word` if the thread has it.
    #[inline]
    pub(crate) fn begin(self, word: &AtomicU32, inherits: bool) {
        let entry = ptr::from_ref(word).expose_provenance() as u64;
        let entry = entry.wrapping_add(OFFSET.unsigned_abs()) | u64::from(inherits);
        self.head().pending.store(entry, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    /// Empties the pending slot.
    #[inline]
    pub(crate) fn end(self) {
        compiler_fence(Ordering::SeqCst);
        self.head().pending.store(0, Ordering::Relaxed);
    }

    /// A section in which this thread may have `word`, without an entry in the list.
    #[inline]
    pub(crate) fn section(self, word: &AtomicU32) -> Section<'_> {
        self.begin(word, false);
        Section { thread: self, word: PhantomData }
    }

    /// Puts a node, whose word this thread has, at the front of the list. In between `begin` and `end`.
    ///
    /// # Safety
    /// The node is in no list. It stays mapped at this address until this thread has called
    /// `unlink` with it or has ended, and only threads of trusted processes write to it.
    #[inline]
    pub(crate) unsafe fn link(self, node: &Node, inherits: bool) {
        let head = self.head();
        let first = head.next.load(Ordering::Relaxed);
        let entry = ptr::from_ref(&node.next).expose_provenance() as u64;
        node.next.store(first, Ordering::Relaxed);
        node.prev.store(self.address(), Ordering::Relaxed);
        // SAFETY: the first of the list, see `set_prev`.
        unsafe { self.set_prev(first, entry) };
        compiler_fence(Ordering::SeqCst);
        head.next.store(entry | u64::from(inherits), Ordering::Relaxed);
    }

    /// Takes a node out of the list. In between `begin` and `end`, before the word is released.
    ///
    /// # Safety
    /// This thread has called `link` with it and not `unlink` since.
    #[inline]
    pub(crate) unsafe fn unlink(self, node: &Node) {
        let next = node.next.load(Ordering::Relaxed);
        let prev = node.prev.load(Ordering::Relaxed);
        let before = prev & !INHERITS;
        if is_link(next) && is_link(before) {
            // SAFETY: the entry after a node of this list, see `set_prev`.
            unsafe { self.set_prev(next, prev) };
            // SAFETY: `prev` of a node of the list is the address of the `next` of the entry before
            // it, the head's where it is the first: `link` wrote it, and whoever took a neighbour out.
            let before = unsafe { &*at(before) };
            before.store(next, Ordering::Relaxed);
        } else {
            // Somebody overwrote the links. The rest of the list is lost, which is found out by
            // who sleeps for its words; nothing is written to where they lead.
            self.head().next.store(self.address(), Ordering::Relaxed);
        }
        compiler_fence(Ordering::SeqCst);
        node.prev.store(0, Ordering::Relaxed);
        node.next.store(0, Ordering::Relaxed);
    }

    /// Tells the entry that `link` leads to what stands before it.
    ///
    /// # Safety
    /// It is a link of this thread's list.
    #[inline]
    unsafe fn set_prev(self, link: u64, prev: u64) {
        let entry = link & !INHERITS;
        if entry != self.address() && is_link(entry) {
            // SAFETY: an entry other than the head is a `Node` of ours or a mutex of libc's, which
            // both have `prev` in the eight bytes before; both stay mapped while they are linked.
            let before = unsafe { &*at(entry.wrapping_sub(8)) };
            before.store(prev, Ordering::Relaxed);
        }
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: what the kernel gave for this thread, which is in its descriptor; that lives as long
        // as the thread, and a `Thread` does not leave it, being no Send. libc and we access it
        // from this thread only, and the kernel when it has ended.
        unsafe { &*self.head }
    }

    #[inline]
    fn address(self) -> u64 {
        self.head.expose_provenance() as u64
    }
}

/// Whether it can be the address of a link at all.
#[inline]
fn is_link(link: u64) -> bool {
    let entry = link & !INHERITS;
    entry != 0 && entry.is_multiple_of(8)
}

/// A link at an address.
#[inline]
fn at(address: u64) -> *const AtomicU64 {
    // As wide as `u64`, asserted above.
    ptr::with_exposed_provenance(address as usize)
}

/// Until dropped, the death of this thread marks a word that it has. See [`Thread::section`].
#[derive(Debug)]
pub(crate) struct Section<'a> {
    thread: Thread,
    word: PhantomData<&'a AtomicU32>,
}

impl Drop for Section<'_> {
    #[inline]
    fn drop(&mut self) {
        self.thread.end();
    }
}

/// The number of the CPU that this thread runs on, counted from 1; 0 where nobody tells.
#[inline]
pub(crate) fn current_cpu() -> u32 {
    // SAFETY: it points to `NO_CPU` or into this thread's own area, see `place_of_cpu`.
    let cpu = unsafe { &*KNOWN.get().cpu };
    cpu.load(Ordering::Relaxed).wrapping_add(1)
}

/// Where the kernel writes this thread's CPU: in the area that glibc has registered for restartable
/// sequences (rseq, since glibc 2.35).
fn place_of_cpu() -> *const AtomicU32 {
    let symbol = |name: &CStr| {
        // SAFETY: looks a name up.
        let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        (!symbol.is_null()).then_some(symbol)
    };
    let (Some(offset), Some(size)) = (symbol(c"__rseq_offset"), symbol(c"__rseq_size")) else {
        return &raw const NO_CPU;
    };
    // SAFETY: glibc's constants of these names have these types, in its manual.
    let offset = unsafe { *offset.cast::<isize>() };
    // SAFETY: as above.
    let size = unsafe { *size.cast::<u32>() };
    if size == 0 {
        // It has registered none.
        return &raw const NO_CPU;
    }
    // `cpu_id` is the second word of the area, which begins so far from the thread pointer.
    ptr::with_exposed_provenance(thread_pointer().wrapping_add_signed(offset + 4))
}

/// The address from which the thread's own memory is counted.
fn thread_pointer() -> usize {
    let pointer: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the word at `fs:0` is its own address, by the ABI.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads a register.
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, nomem, preserves_flags));
    }
    pointer
}

/// The head that libc has registered for this thread.
fn registered_head() -> Result<*const Head, Refused> {
    let mut head: *const Head = ptr::null();
    let mut length = 0_usize;
    // SAFETY: the call writes a pointer and a length to these two.
    let done =
        unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut length) };
    if done != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Refused::Os(Errno::from_io_error(&error).unwrap_or(Errno::NOSYS)));
    }
    if head.is_null() || length != size_of::<Head>() || !head.is_aligned() {
        return Err(Refused::NoList);
    }
    // SAFETY: not null, aligned and of this length, checked; libc keeps it there as long as the
    // thread lives, or the kernel would have nothing to read.
    let offset = unsafe { &*head }.offset.load(Ordering::Relaxed).cast_signed();
    if offset == OFFSET { Ok(head) } else { Err(Refused::Offset(offset)) }
}

impl Process {
    /// The page of this process; [`UNKNOWN`] where there is none that a fork wipes.
    fn page() -> &'static Self {
        let have = PROCESS.load(Ordering::Acquire);
        let page = if have.is_null() { Self::make_page() } else { have };
        // SAFETY: a page that is never unmapped, zeroed or written to by atomic operations only.
        unsafe { &*page }
    }

    fn make_page() -> *const Self {
        let size = rustix::param::page_size();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses where.
        let page = unsafe { mmap_anonymous(ptr::null_mut(), size, prot, MapFlags::PRIVATE) };
        let Ok(page) = page else { return &raw const UNKNOWN };
        // SAFETY: of this very page, which nobody knows yet.
        let wiped = unsafe { madvise(page, size, Advice::LinuxWipeOnFork) };
        let null = ptr::null_mut();
        let kept = match wiped {
            // Without that every lock looks itself up, which is slow and right.
            Err(_) => Err(null),
            Ok(()) => {
                PROCESS.compare_exchange(null, page.cast(), Ordering::AcqRel, Ordering::Acquire)
            }
        };
        match kept {
            Ok(_) => page.cast_const().cast(),
            Err(others) => {
                // SAFETY: of this very page, which nobody came to know.
                let _ = unsafe { munmap(page, size) };
                if others.is_null() { &raw const UNKNOWN } else { others }
            }
        }
    }
}

/// The pid namespace of this process, in which thread numbers are counted. Looked up once, and once more
/// after a fork. Needs /proc.
pub(crate) fn namespace() -> Result<u64, Errno> {
    let process = Process::page();
    let known = process.namespace.load(Ordering::Relaxed);
    if known != 0 {
        return Ok(known);
    }
    let inode = rustix::fs::stat("/proc/self/ns/pid")?.st_ino;
    if !ptr::eq(process, &raw const UNKNOWN) {
        process.namespace.store(inode, Ordering::Relaxed);
    }
    Ok(inode)
}

/// Whether a thread of this number exists in this pid namespace. A zombie does, until it is reaped.
#[cold]
pub(crate) fn exists(tid: u32) -> bool {
    // SAFETY: signal 0 only looks.
    let found = unsafe { libc::syscall(libc::SYS_tkill, tid, 0) };
    found == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}
