//! What memfds, POSIX segments and files have in common: they are files that can be mapped.

use std::os::fd::BorrowedFd;

use rustix::fs;
use rustix::io::Errno;
use rustix::param::page_size;

use super::allocate;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{Mapping, Options, Part};
use crate::mechanism::Mechanism;

/// statfs(2): files of huge pages.
const HUGETLBFS: u64 = 0x958458f6;

/// Maps all of an object: as much as it has now.
pub(crate) fn map_all(
    fd: BorrowedFd<'_>,
    options: Options,
    mechanism: Mechanism,
) -> Result<Mapping> {
    map(fd, 0, None, options, mechanism)
}

/// Maps `len` bytes from `offset` on, or all from there on; never beyond the end.
pub(crate) fn map(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: Option<usize>,
    options: Options,
    mechanism: Mechanism,
) -> Result<Mapping> {
    let stat = fs::fstat(fd).map_err(|e| Error::os("look at", e).on(mechanism))?;
    let size = allocate::length(&stat);
    let beyond = |len: u64| {
        Error::new(ErrorKind::InvalidInput, "map")
            .on(mechanism)
            .object(format!("{len} bytes at {offset}"))
            .because(format!("the object has {size} bytes"))
    };
    let left = size.checked_sub(offset).ok_or_else(|| beyond(0))?;
    let len = match len {
        Some(len) if len as u64 <= left => len,
        Some(len) => return Err(beyond(len as u64)),
        // What does not fit the address space is refused by the map.
        None => usize::try_from(left).unwrap_or(usize::MAX),
    };
    let page = page_size_of(fd, u64::try_from(stat.st_blksize).unwrap_or(0));
    Mapping::from_fd(fd, Part { offset, len, page }, options, mechanism)
}

/// The size of the pages that a file is made of.
fn page_size_of(fd: BorrowedFd<'_>, block: u64) -> usize {
    let ordinary = page_size();
    if block <= ordinary as u64 {
        return ordinary;
    }
    match fs::fstatfs(fd) {
        #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "a magic number")]
        Ok(fs) if fs.f_type as u64 == HUGETLBFS => usize::try_from(block).unwrap_or(ordinary),
        _ => ordinary,
    }
}

/// Reads the whole of `buf`.
pub(crate) fn read_at(
    fd: BorrowedFd<'_>,
    offset: u64,
    buf: &mut [u8],
    mechanism: Mechanism,
) -> Result<()> {
    let wanted = buf.len();
    let mut done = 0;
    while done < wanted {
        match rustix::io::pread(fd, &mut buf[done..], offset.saturating_add(done as u64)) {
            Ok(0) => {
                return Err(Error::new(ErrorKind::Truncated, "read")
                    .on(mechanism)
                    .object(format!("{wanted} bytes at {offset}"))
                    .because(format!("it ends after {done} of them")));
            }
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("read", errno).on(mechanism)),
        }
    }
    Ok(())
}

/// Writes the whole of `data`.
pub(crate) fn write_at(
    fd: BorrowedFd<'_>,
    offset: u64,
    data: &[u8],
    mechanism: Mechanism,
) -> Result<()> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pwrite(fd, &data[done..], offset.saturating_add(done as u64)) {
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => {
                let error = Error::os("write", errno)
                    .on(mechanism)
                    .object(format!("{} bytes at {offset}", data.len()));
                return Err(match errno {
                    Errno::PERM => error.because("a seal forbids writing, or growing"),
                    Errno::BADF => error
                        .of_kind(ErrorKind::PermissionDenied)
                        .because("it is open for reading only"),
                    _ => error,
                });
            }
        }
    }
    Ok(())
}
