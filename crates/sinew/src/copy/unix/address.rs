//! The names of UNIX sockets.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use rustix::net::SocketAddrUnix;

use crate::error::{Error, ErrorKind, Result};

/// The room for a name in the kernel's structure (`sun_path`).
const ROOM: usize = 108;

/// The name of a UNIX socket: a path, an abstract name, or none.
///
/// As text a path is itself and an abstract name has `@` before it. Bytes that are not printable
/// are `\xNN` and a backslash is `\\`; a relative path that begins with `@` is printed with `./`
/// before it. Parsing takes all of these.
///
/// # Length
/// A path has at most 108 bytes, an abstract name at most 107. A path of exactly 108 bytes fills
/// the kernel's structure and goes without a closing NUL, which Linux takes; many other programs
/// (std's `UnixStream` too) cannot name such a path, so keep to 107 for those. A longer path can
/// be reached by a shorter way to its folder: a relative path, or `/proc/self/fd/N/name` where N
/// is the folder opened with O_PATH. See unix(7).
///
/// ```
/// use sinew::unix::Address;
///
/// let path: Address = "/run/jobs".parse()?;
/// assert_eq!(path, Address::path("/run/jobs")?);
/// let name: Address = "@jobs".parse()?;
/// assert_eq!(name.as_abstract(), Some(&b"jobs"[..]));
/// assert_eq!(name.to_string(), "@jobs");
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address(SocketAddrUnix);

impl Address {
    /// A path in the file system.
    ///
    /// # Errors
    /// Of kind `InvalidInput` if it is empty, holds a NUL, or has more than 108 bytes.
    pub fn path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_bytes();
        let refused = |cause: String| {
            Error::new(ErrorKind::InvalidInput, "name a UNIX socket")
                .object(format!("{path:?}"))
                .because(cause)
        };
        if bytes.is_empty() {
            return Err(refused("an empty path names nothing".to_owned()));
        }
        if bytes.contains(&0) {
            return Err(refused("a path holds no NUL byte".to_owned()));
        }
        if bytes.len() > ROOM {
            let cause =
                format!("the path has {} bytes, the limit is {ROOM} (sun_path)", bytes.len());
            return Err(refused(cause).fix(
                "use a shorter path, one relative to the current folder, an abstract name, or \
                 /proc/self/fd/N/NAME with its folder opened as N",
            ));
        }
        SocketAddrUnix::new(path).map(Self).map_err(|e| Error::os("name a UNIX socket", e))
    }

    /// An abstract name: any bytes. It belongs to the network namespace, has no permissions, and
    /// is gone when its socket is closed.
    ///
    /// # Errors
    /// Of kind `InvalidInput` if it has more than 107 bytes.
    pub fn abstract_name(name: impl AsRef<[u8]>) -> Result<Self> {
        let name = name.as_ref();
        SocketAddrUnix::new_abstract_name(name).map(Self).map_err(|_| {
            Error::new(ErrorKind::InvalidInput, "name a UNIX socket")
                .object(format!("\"@{}\"", name.escape_ascii()))
                .because(format!("the name has {} bytes, the limit is {}", name.len(), ROOM - 1))
                .fix("use a shorter name")
        })
    }

    /// No name. Binding a [`Datagram`](super::Datagram) to it lets the kernel choose an abstract one.
    #[must_use]
    pub fn unnamed() -> Self {
        Self(SocketAddrUnix::new_unnamed())
    }

    /// What the kernel wrote: the bytes after the family, as many as it said.
    pub(super) fn from_kernel(bytes: &[u8]) -> Self {
        let made = match bytes {
            [] => return Self::unnamed(),
            [0, name @ ..] => SocketAddrUnix::new_abstract_name(name),
            // A path that fills the structure comes with a NUL one byte behind it.
            path => SocketAddrUnix::new(path.split(|b| *b == 0).next().unwrap_or_default()),
        };
        // The kernel takes no longer names than these constructors do.
        made.map_or_else(|_| Self::unnamed(), Self)
    }

    /// The path, if it is one.
    #[must_use]
    pub fn as_path(&self) -> Option<&Path> {
        self.0.path_bytes().map(|bytes| Path::new(OsStr::from_bytes(bytes)))
    }

    /// The abstract name without its `@`, if it is one.
    #[must_use]
    pub fn as_abstract(&self) -> Option<&[u8]> {
        self.0.abstract_name()
    }

    /// Whether it names nothing.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.0.is_unnamed()
    }

    pub(super) fn raw(&self) -> &SocketAddrUnix {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.as_abstract() {
            f.write_char('@')?;
            return write_escaped(f, name);
        }
        match self.0.path_bytes() {
            Some(path) => {
                if path.starts_with(b"@") {
                    f.write_str("./")?;
                }
                write_escaped(f, path)
            }
            None => f.write_str("(unnamed)"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                c if c.is_control() => {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                }
                c => f.write_char(c)?,
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = |cause: &'static str| {
            Error::new(ErrorKind::InvalidInput, "parse the address of a UNIX socket")
                .object(format!("{text:?}"))
                .because(cause)
        };
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let [first, tail @ ..] = rest {
            rest = tail;
            if *first != b'\\' {
                bytes.push(*first);
                continue;
            }
            match rest {
                [b'\\', tail @ ..] => {
                    bytes.push(b'\\');
                    rest = tail;
                }
                [b'x', high, low, tail @ ..] => {
                    let digit = |c: u8| char::from(c).to_digit(16);
                    match (digit(*high), digit(*low)) {
                        #[expect(clippy::cast_possible_truncation, reason = "two hex digits")]
                        (Some(high), Some(low)) => bytes.push((high << 4 | low) as u8),
                        _ => return Err(refused("\\x is followed by two hexadecimal digits")),
                    }
                    rest = tail;
                }
                _ => return Err(refused("a backslash begins \\\\ or \\xNN")),
            }
        }
        match text.strip_prefix('@') {
            Some(_) => Self::abstract_name(&bytes[1..]),
            None => Self::path(OsStr::from_bytes(&bytes)),
        }
    }
}
