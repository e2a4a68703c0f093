//! How a set is made and found: semget(2).

#![allow(unsafe_code, reason = "neither std nor rustix has System V semaphores; libc does")]

use std::ffi::c_int;
use std::fs;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::{Key, Limit, MAX, MECHANISM, Op, Set, last_errno};
use crate::error::{Error, ErrorKind, Result, Stop};
use crate::wait::{Wait, Waits, drive_by_naps};

/// How to create or open a set.
///
/// ```
/// use sinew::ErrorKind;
/// use sinew::sysv_sem::{Key, Options};
///
/// let key = Key::new(0x5158_0000 | (std::process::id() as i32 & 0xffff));
/// let set = Options::new().create(key, &[1, 0])?.remove_on_drop();
/// assert_eq!(Options::new().open(key)?.id(), set.id());
/// assert_eq!(Options::new().create(key, &[1]).unwrap_err().kind(), ErrorKind::AlreadyExists);
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Options {
    mode: u32,
    patience: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a set was not had.
struct Refused {
    errno: Errno,
    error: Error,
}

impl Options {
    /// Mode 0600, and a second of patience.
    #[must_use]
    pub const fn new() -> Self {
        Self { mode: 0o600, patience: Some(Duration::from_secs(1)) }
    }

    /// The permission bits of a new set: 4 to look, 2 to change. The umask has no say.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// How long an opener waits for the creator of a set to complete it.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Opens sets that nobody has changed since they were created, such as those of `ipcmk`: whether
    /// they are complete the caller knows.
    #[must_use]
    pub const fn as_is(mut self) -> Self {
        self.patience = None;
        self
    }

    /// Creates a set under a number that must not have one yet, with a semaphore for each of `values`.
    ///
    /// A process that is killed in this call can leave a set that is not complete, which no opener takes
    /// for one.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); [`LimitReached`](ErrorKind::LimitReached), the
    /// limit named; [`InvalidInput`](ErrorKind::InvalidInput) for no semaphore, and for values beyond
    /// 32767; [`Closed`](ErrorKind::Closed) if somebody removed it at once.
    pub fn create(&self, key: Key, values: &[u16]) -> Result<Set> {
        let set = self.new_set(key, values).map_err(|refused| refused.error)?;
        let completed = set.set_values(values).and_then(|()| {
            // Changes nothing but the time that says that it is complete.
            let first = values.first().copied().unwrap_or(0);
            let (there, back) = (Op::post(0, 1), Op::take(0, 1));
            let both = if first == 0 { [there, back] } else { [back, there] };
            set.step(&both).try_wait().map_err(|e| {
                let errno = std::io::Error::from(e).raw_os_error().unwrap_or(libc::EIDRM);
                set.error("create", Errno::from_raw_os_error(errno))
            })
        });
        match completed {
            Ok(()) => Ok(set),
            Err(error) => {
                // Nobody has taken it for complete. If it is gone that is why.
                let _ = set.remove();
                Err(error)
            }
        }
    }

    fn new_set(&self, key: Key, values: &[u16]) -> Result<Set, Refused> {
        if let Some(value) = values.iter().find(|value| **value > MAX) {
            let error = Error::new(ErrorKind::InvalidInput, "create").on(MECHANISM).object(key);
            let error = error.because(format!("the value {value} is more than {MAX}"));
            return Err(Refused { errno: Errno::RANGE, error });
        }
        self.get("create", key, values.len(), libc::IPC_CREAT | libc::IPC_EXCL)
    }

    /// Opens the set that has the number, when it is complete. Whether this process may use it shows
    /// when it does; one that may not even look at it is not waited for.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`TimedOut`](ErrorKind::TimedOut) if it was not completed in
    /// time, and earlier if its creator is gone: the text says what is known.
    pub fn open(&self, key: Key) -> Result<Set> {
        if key == Key::PRIVATE {
            return Err(Error::new(ErrorKind::InvalidInput, "open")
                .on(MECHANISM)
                .object(key)
                .because("a private set has no number to find it by")
                .fix("hand over its id, and use `Set::from_id`"));
        }
        let set = self.get("open", key, 0, 0).map_err(|refused| refused.error)?;
        self.until_complete(&set, key)?;
        Ok(set)
    }

    /// Opens the set that has the number, or creates it. One that exists keeps its mode and values, and
    /// has to have as many semaphores at least.
    ///
    /// # Errors
    /// As those of [`create`](Self::create) and [`open`](Self::open);
    /// [`Mismatch`](ErrorKind::Mismatch) if it has fewer.
    pub fn open_or_create(&self, key: Key, values: &[u16]) -> Result<Set> {
        loop {
            match self.create(key, values) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                // Somebody removed it before it was complete.
                Err(e) if e.kind() == ErrorKind::Closed => continue,
                done => return done,
            }
            let set = match self.get("open", key, values.len(), 0) {
                // Somebody removed it in between, so it can be created now.
                Err(Refused { errno: Errno::NOENT | Errno::IDRM, .. }) => continue,
                Err(Refused { errno: Errno::INVAL, error }) => {
                    return Err(error
                        .of_kind(ErrorKind::Mismatch)
                        .because(format!("it has fewer than {} semaphores", values.len())));
                }
                Err(refused) => return Err(refused.error),
                Ok(set) => set,
            };
            match self.until_complete(&set, key) {
                Err(e) if e.kind() == ErrorKind::Closed => {}
                done => return done.map(|()| set),
            }
        }
    }

    /// Waits until the creator of a set has completed it.
    fn until_complete(&self, set: &Set, key: Key) -> Result<()> {
        let Some(patience) = self.patience else { return Ok(()) };
        let mut creator = None;
        let done = drive_by_naps(Wait::timeout(patience), |_| {
            if set.stat()?.sem_otime != 0 {
                return Ok(true);
            }
            // Who has set the values is on record, who has only made the set is not.
            creator = set.at(0).last_pid().ok().flatten();
            let gone = creator.is_some_and(is_gone);
            // It may have completed it since, and ended.
            if gone && set.stat()?.sem_otime == 0 { Ok(false) } else { Err(Errno::AGAIN) }
        });
        let age = set.status().ok().and_then(|status| status.changed?.elapsed().ok());
        let since = age.map_or(String::new(), |age| format!(" for {} s", age.as_secs()));
        let state = match (done, creator) {
            (Ok(true) | Err(Stop::Os(libc::EACCES)), _) => return Ok(()),
            (Err(Stop::Os(errno)), _) => {
                return Err(set.error("open", Errno::from_raw_os_error(errno)).object(key));
            }
            (Ok(false), Some(pid)) => format!("process {pid}, which set its values, is gone"),
            (_, Some(pid)) => format!("process {pid}, which set its values, has not used it"),
            (_, None) => "nobody has set its values: its creator is slow, or was killed".to_owned(),
        };
        Err(Error::new(ErrorKind::TimedOut, "open")
            .on(MECHANISM)
            .object(key)
            .because(format!("it exists{since} and may not be complete: {state}"))
            .fix(format!(
                "try again; if it is complete, open it with `as_is()`; if it was left behind, \
                 `ipcrm -s {}`",
                set.id
            )))
    }

    fn get(
        &self,
        operation: &'static str,
        key: Key,
        count: usize,
        flags: c_int,
    ) -> Result<Set, Refused> {
        let mode = if flags == 0 { 0 } else { c_int::try_from(self.mode & 0o777).unwrap_or(0) };
        let number = c_int::try_from(count).unwrap_or(c_int::MAX);
        // SAFETY: semget takes numbers only.
        let id = unsafe { libc::semget(key.get(), number, flags | mode) };
        if id >= 0 {
            return Ok(Set { id });
        }
        let errno = last_errno();
        Err(Refused { errno, error: get_error(operation, errno, key, count) })
    }
}

/// Whether no process has this number. One that has it may be another: then the opener waits its time.
fn is_gone(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

#[cold]
fn get_error(operation: &'static str, errno: Errno, key: Key, count: usize) -> Error {
    let error = Error::os(operation, errno).on(MECHANISM).object(key);
    match errno {
        Errno::NOENT => error.because("no set of this IPC namespace has it"),
        Errno::INVAL if count == 0 => error.because("a set has at least one semaphore"),
        Errno::INVAL if Limit::SemMsl.value().is_some_and(|most| count as u64 > most) => error
            .of_kind(ErrorKind::LimitReached)
            .because(format!("{count} semaphores are more than {}", Limit::SemMsl.stated()))
            .fix(Limit::SemMsl.raise()),
        Errno::NOSPC => {
            let (sets, semaphores) = there();
            let error = error.of_kind(ErrorKind::LimitReached);
            let remove = "remove sets that nobody uses (`ipcs -s`, `ipcrm -s ID`), or";
            if Limit::SemMni.value().is_some_and(|most| sets >= most) {
                error
                    .because(format!("{sets} sets exist, of {}", Limit::SemMni.stated()))
                    .fix(format!("{remove} {}", Limit::SemMni.raise()))
            } else {
                error
                    .because(format!(
                        "{count} semaphores more than the {semaphores} there are exceed {}",
                        Limit::SemMns.stated()
                    ))
                    .fix(format!("{remove} {}", Limit::SemMns.raise()))
            }
        }
        Errno::ACCESS => error.because("its mode does not allow it"),
        Errno::NOMEM => error.because("there is no memory left for it"),
        Errno::NOSYS => error.because("this kernel has no System V IPC (CONFIG_SYSVIPC)"),
        _ => error,
    }
}

/// How many sets there are in this IPC namespace, and how many semaphores they have.
fn there() -> (u64, u64) {
    let text = fs::read_to_string("/proc/sysvipc/sem").unwrap_or_default();
    let sets = text.lines().skip(1);
    // key, id, mode, and then the number of semaphores.
    let count = |set: &str| set.split_whitespace().nth(3)?.parse::<u64>().ok();
    sets.fold((0, 0), |(sets, all), set| (sets + 1, all + count(set).unwrap_or(0)))
}
