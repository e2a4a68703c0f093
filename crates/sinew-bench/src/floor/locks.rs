//! The floor of locks and semaphores: glibc's, with the same attributes (process-shared; the mutex
//! robust too, and what is made of it), and bare calls where the kernel has the object itself.

#![allow(unsafe_code, reason = "pthread objects and bare libc calls are what this file is for")]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::c_int;

use crate::parties::{Lock, Turn};

/// From a call that gives -1 and sets errno.
fn check(result: c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// From a call of pthreads, which gives the error number.
fn checked(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// A robust process-shared mutex of glibc in shared memory. The row keeps that mapped.
#[derive(Debug)]
pub(crate) struct Mutex(*mut libc::pthread_mutex_t);

impl Mutex {
    /// The size of each object of this file, and more.
    pub(crate) const ROOM: usize = 256;

    pub(crate) fn at(place: *mut u8) -> Self {
        Self(place.cast())
    }

    /// Makes it. Only the near side does.
    pub(crate) fn init(&self) -> io::Result<()> {
        let mut attributes = std::mem::MaybeUninit::uninit();
        // SAFETY: the attributes are live, and initialised by the call.
        checked(unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) })?;
        let attributes = attributes.as_mut_ptr();
        // SAFETY: initialised above.
        checked(unsafe {
            libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED)
        })?;
        // SAFETY: as above.
        checked(unsafe {
            libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST)
        })?;
        // SAFETY: the place is aligned room in a mapping that the worker keeps; nobody uses it yet.
        checked(unsafe { libc::pthread_mutex_init(self.0, attributes) })
    }

    #[inline]
    pub(crate) fn lock(&self) -> io::Result<()> {
        // SAFETY: initialised by the near side before the far one attached.
        checked(unsafe { libc::pthread_mutex_lock(self.0) })
    }

    #[inline]
    pub(crate) fn unlock(&self) -> io::Result<()> {
        // SAFETY: locked by this thread.
        checked(unsafe { libc::pthread_mutex_unlock(self.0) })
    }
}

impl Lock for Mutex {
    #[inline]
    fn locked(&mut self, inside: impl FnOnce()) -> io::Result<()> {
        self.lock()?;
        inside();
        self.unlock()
    }
}

impl Turn for Mutex {
    fn prepare(&mut self) -> io::Result<()> {
        self.lock()
    }

    fn post(&mut self) -> io::Result<()> {
        self.unlock()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.lock()
    }

    fn settle(&mut self) -> io::Result<()> {
        self.unlock()
    }
}

/// Makes a process-shared condition variable.
fn init_condition(condition: *mut libc::pthread_cond_t) -> io::Result<()> {
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY: the attributes are live, and initialised by the call.
    checked(unsafe { libc::pthread_condattr_init(attributes.as_mut_ptr()) })?;
    let attributes = attributes.as_mut_ptr();
    // SAFETY: initialised above.
    checked(unsafe {
        libc::pthread_condattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED)
    })?;
    // SAFETY: aligned room in a mapping that the worker keeps; nobody uses it yet.
    checked(unsafe { libc::pthread_cond_init(condition, attributes) })
}

/// A condition variable of glibc with its robust mutex: a word in it says whose turn it is.
#[derive(Debug)]
pub(crate) struct Condvar {
    condition: *mut libc::pthread_cond_t,
    mutex: Mutex,
    turns: *const AtomicU32,
    /// Whose turn ends this side's wait.
    own: u32,
}

impl Condvar {
    pub(crate) fn at(place: *mut u8, near: bool) -> Self {
        Self {
            condition: place.cast(),
            mutex: Mutex::at(place.wrapping_add(Mutex::ROOM)),
            turns: place.wrapping_add(2 * Mutex::ROOM).cast_const().cast(),
            own: u32::from(near),
        }
    }

    pub(crate) fn init(&self) -> io::Result<()> {
        self.mutex.init()?;
        init_condition(self.condition)
    }

    fn turns(&self) -> &AtomicU32 {
        // SAFETY: an aligned word of a mapping that the worker keeps.
        unsafe { &*self.turns }
    }
}

impl Turn for Condvar {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        self.mutex.lock()?;
        self.turns().store(1 + (1 - self.own), Ordering::Relaxed);
        self.mutex.unlock()?;
        // SAFETY: initialised by the near side.
        checked(unsafe { libc::pthread_cond_signal(self.condition) })
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        self.mutex.lock()?;
        while self.turns().load(Ordering::Relaxed) != 1 + self.own {
            // SAFETY: initialised by the near side, and the mutex is held.
            checked(unsafe { libc::pthread_cond_wait(self.condition, self.mutex.0) })?;
        }
        self.turns().store(0, Ordering::Relaxed);
        self.mutex.unlock()
    }
}

/// What a C program has for a barrier of two that outlives its members: a robust mutex of glibc, a
/// condition variable, and under them how many have come and how often all have gone on. Passing it is
/// both the post and the wait.
#[derive(Debug)]
pub(crate) struct Barrier {
    condition: *mut libc::pthread_cond_t,
    mutex: Mutex,
    words: *const [AtomicU32; 2],
}

impl Barrier {
    pub(crate) fn at(place: *mut u8) -> Self {
        Self {
            condition: place.cast(),
            mutex: Mutex::at(place.wrapping_add(Mutex::ROOM)),
            words: place.wrapping_add(2 * Mutex::ROOM).cast_const().cast(),
        }
    }

    pub(crate) fn init(&self) -> io::Result<()> {
        self.mutex.init()?;
        init_condition(self.condition)
    }

    #[inline]
    fn pass(&self) -> io::Result<()> {
        // SAFETY: aligned words of a mapping that the worker keeps.
        let [come, gone] = unsafe { &*self.words };
        self.mutex.lock()?;
        let before = gone.load(Ordering::Relaxed);
        if come.load(Ordering::Relaxed) == 1 {
            come.store(0, Ordering::Relaxed);
            gone.store(before.wrapping_add(1), Ordering::Relaxed);
            self.mutex.unlock()?;
            // SAFETY: initialised by the near side.
            return checked(unsafe { libc::pthread_cond_broadcast(self.condition) });
        }
        come.store(1, Ordering::Relaxed);
        while gone.load(Ordering::Relaxed) == before {
            // SAFETY: initialised by the near side, and the mutex is held.
            checked(unsafe { libc::pthread_cond_wait(self.condition, self.mutex.0) })?;
        }
        self.mutex.unlock()
    }
}

impl Turn for Barrier {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        self.pass()
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        self.pass()
    }
}

/// Two process-shared semaphores of glibc, one for each side.
#[derive(Debug)]
pub(crate) struct Semaphores {
    own: *mut libc::sem_t,
    other: *mut libc::sem_t,
}

impl Semaphores {
    pub(crate) fn at(place: *mut u8, near: bool) -> Self {
        let [one, two] = [place.cast(), place.wrapping_add(Mutex::ROOM).cast()];
        if near { Self { own: one, other: two } } else { Self { own: two, other: one } }
    }

    /// Makes both, the near side's own with `value`.
    pub(crate) fn init(&self, value: u32) -> io::Result<()> {
        // SAFETY: aligned room in a mapping that the worker keeps; nobody uses it yet.
        check(unsafe { libc::sem_init(self.own, 1, value) })?;
        // SAFETY: as above.
        check(unsafe { libc::sem_init(self.other, 1, 0) })
    }

    #[inline]
    fn take(semaphore: *mut libc::sem_t) -> io::Result<()> {
        // SAFETY: initialised by the near side.
        check(unsafe { libc::sem_wait(semaphore) })
    }

    #[inline]
    fn give(semaphore: *mut libc::sem_t) -> io::Result<()> {
        // SAFETY: initialised by the near side.
        check(unsafe { libc::sem_post(semaphore) })
    }
}

impl Turn for Semaphores {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        Self::give(self.other)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        Self::take(self.own)
    }
}

/// One semaphore of glibc as a lock.
#[derive(Debug)]
pub(crate) struct SemaphoreLock(pub(crate) Semaphores, pub(crate) bool);

impl Lock for SemaphoreLock {
    #[inline]
    fn locked(&mut self, inside: impl FnOnce()) -> io::Result<()> {
        // The one that the near side calls its own.
        let semaphore = if self.1 { self.0.own } else { self.0.other };
        Semaphores::take(semaphore)?;
        inside();
        Semaphores::give(semaphore)
    }
}

/// Two semaphores of a System V set: semop(2), one operation a call.
#[derive(Debug)]
pub(crate) struct SysvSemaphores {
    pub(crate) id: c_int,
    pub(crate) own: u16,
    pub(crate) other: u16,
}

impl SysvSemaphores {
    #[inline]
    fn add(&self, number: u16, count: i16) -> io::Result<()> {
        let mut operation = libc::sembuf { sem_num: number, sem_op: count, sem_flg: 0 };
        // SAFETY: one operation, which is live.
        check(unsafe { libc::semop(self.id, &raw mut operation, 1) })
    }
}

impl Turn for SysvSemaphores {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        self.add(self.other, 1)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        self.add(self.own, -1)
    }
}

/// One semaphore of a System V set as a lock.
#[derive(Debug)]
pub(crate) struct SysvLock(pub(crate) SysvSemaphores);

impl Lock for SysvLock {
    #[inline]
    fn locked(&mut self, inside: impl FnOnce()) -> io::Result<()> {
        self.0.add(self.0.own, -1)?;
        inside();
        self.0.add(self.0.own, 1)
    }
}

/// An open-file-description lock on a whole file: fcntl(2).
#[derive(Debug)]
pub(crate) struct DescriptionLock(pub(crate) c_int);

impl DescriptionLock {
    #[inline]
    fn set(&self, command: c_int, kind: c_int) -> io::Result<()> {
        // SAFETY: all fields are numbers, for which zero is a value: the whole file, from its start.
        let mut range: libc::flock = unsafe { std::mem::zeroed() };
        range.l_type = kind as libc::c_short;
        range.l_whence = libc::SEEK_SET as libc::c_short;
        // SAFETY: the range is live and of the kind that the command takes.
        check(unsafe { libc::fcntl(self.0, command, &raw mut range) })
    }

    #[inline]
    fn lock(&self) -> io::Result<()> {
        self.set(libc::F_OFD_SETLKW, libc::F_WRLCK)
    }

    #[inline]
    fn unlock(&self) -> io::Result<()> {
        self.set(libc::F_OFD_SETLK, libc::F_UNLCK)
    }
}

impl Lock for DescriptionLock {
    #[inline]
    fn locked(&mut self, inside: impl FnOnce()) -> io::Result<()> {
        self.lock()?;
        inside();
        self.unlock()
    }
}

impl Turn for DescriptionLock {
    fn prepare(&mut self) -> io::Result<()> {
        self.lock()
    }

    fn post(&mut self) -> io::Result<()> {
        self.unlock()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.lock()
    }

    fn settle(&mut self) -> io::Result<()> {
        self.unlock()
    }
}

/// Two words and futex(2): each side sleeps while its own has not changed.
#[derive(Debug)]
pub(crate) struct Futexes {
    own: *const AtomicU32,
    other: *const AtomicU32,
    seen: u32,
}

impl Futexes {
    pub(crate) fn at(place: *mut u8, near: bool) -> Self {
        let [one, two] = [place.cast_const().cast(), place.wrapping_add(128).cast_const().cast()];
        let [own, other] = if near { [one, two] } else { [two, one] };
        Self { own, other, seen: 0 }
    }
}

impl Turn for Futexes {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        // SAFETY: an aligned word of a mapping that the worker keeps.
        let word = unsafe { &*self.other };
        word.fetch_add(1, Ordering::Release);
        // SAFETY: waking reads no memory.
        let woken = unsafe { libc::syscall(libc::SYS_futex, self.other, libc::FUTEX_WAKE, 1) };
        check(woken as c_int)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        // SAFETY: an aligned word of a mapping that the worker keeps.
        let word = unsafe { &*self.own };
        while word.load(Ordering::Acquire) == self.seen {
            let no_limit = ptr::null::<libc::timespec>();
            // SAFETY: the word is live, and no limit is given.
            let slept = unsafe {
                libc::syscall(libc::SYS_futex, self.own, libc::FUTEX_WAIT, self.seen, no_limit)
            };
            match check(slept as c_int).map_err(|e| e.raw_os_error()) {
                Ok(()) | Err(Some(libc::EAGAIN | libc::EINTR)) => {}
                Err(e) => return Err(io::Error::from_raw_os_error(e.unwrap_or(0))),
            }
        }
        self.seen = self.seen.wrapping_add(1);
        Ok(())
    }
}
