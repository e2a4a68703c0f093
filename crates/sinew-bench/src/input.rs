//! The file of `--input`, looked at before anything is measured.

use std::fs::File;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};
use sinew::{Error, ErrorKind, Result};

use crate::report::Input;

/// The longest file that is taken: each process holds it in memory.
const LONGEST: u64 = 4 << 30;

/// Its length and its checksum.
pub(crate) fn read(path: &Path) -> Result<Input> {
    let trouble = |kind: ErrorKind, cause: String| {
        Error::new(kind, "read the input").object(format!("{path:?}")).because(cause)
    };
    let from_io = |e: io::Error| {
        let kind = match e.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::InvalidInput,
        };
        trouble(kind, e.to_string())
    };
    let path_absolute = path.canonicalize().map_err(from_io)?;
    // Looked at before it is opened: to open a FIFO would wait for its writer.
    let meta = path_absolute.metadata().map_err(from_io)?;
    if !meta.is_file() {
        return Err(trouble(ErrorKind::InvalidInput, "it is not a regular file".to_owned()));
    }
    if meta.len() == 0 || meta.len() > LONGEST {
        let cause = format!("it has {} bytes; between 1 and {LONGEST} can be used", meta.len());
        return Err(trouble(ErrorKind::InvalidInput, cause));
    }
    let mut file = File::open(&path_absolute).map_err(from_io)?;
    let mut hash = Sha256::new();
    let bytes = io::copy(&mut file, &mut hash).map_err(from_io)?;
    Ok(Input {
        path: path_absolute.to_string_lossy().into_owned(),
        bytes,
        sha256: format!("{:x}", hash.finalize()),
    })
}
