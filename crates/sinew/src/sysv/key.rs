//! The keys of System V objects.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Error, Result};

/// The number by which unrelated processes find the same System V object.
///
/// ```
/// use sinew::sysv_mq::Key;
///
/// let agreed = Key::new(0x5157_0001);
/// assert_eq!(agreed.to_string(), "key 0x51570001");
/// let of_a_file = Key::ftok("/etc/passwd", b'q')?;
/// assert_eq!(of_a_file.get() >> 24, i32::from(b'q'));
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(i32);

impl Key {
    /// No number (IPC_PRIVATE): every object made with it is another one, found only by its id.
    pub const PRIVATE: Self = Self(libc::IPC_PRIVATE);

    /// This number. Zero is [`PRIVATE`](Self::PRIVATE).
    #[must_use]
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// The number that ftok(3) makes of a file and a project, bit for bit as the C library does: the
    /// low 16 bits of the inode, the low 8 of the device, the project. So two files can have the
    /// same one, and a file that is written anew under its name has another.
    ///
    /// # Errors
    /// When the file is not there or cannot be looked at.
    pub fn ftok(path: impl AsRef<Path>, project: u8) -> Result<Self> {
        let path = path.as_ref();
        let file = fs::metadata(path).map_err(|e| {
            let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
            Error::os("make a key (ftok)", errno).object(format!("{path:?}"))
        })?;
        let [inode_0, inode_1, ..] = file.ino().to_le_bytes();
        let [device, ..] = file.dev().to_le_bytes();
        Ok(Self(i32::from_le_bytes([inode_0, inode_1, device, project])))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PRIVATE => f.write_str("private key"),
            Self(number) => write!(f, "key {number:#010x}"),
        }
    }
}
