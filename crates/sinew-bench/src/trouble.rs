//! Why a row came to nothing.

use std::io;

use sinew::ErrorKind;

use crate::job::Outcome;

/// Why a row came to nothing: this host does not permit it, or it went wrong.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The reason and the remedy, in one line.
    Skip(String),
    /// What went wrong, in one line.
    Fail(String),
}

impl From<sinew::Error> for Trouble {
    fn from(error: sinew::Error) -> Self {
        match error.kind() {
            ErrorKind::LimitReached
            | ErrorKind::NoSpace
            | ErrorKind::PermissionDenied
            | ErrorKind::Unsupported
            | ErrorKind::InvalidInput => Self::Skip(error.to_string()),
            _ => Self::Fail(error.to_string()),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Fail(error.to_string())
    }
}

impl From<Trouble> for Outcome {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Skip(reason) => Self::Skipped(reason),
            Trouble::Fail(reason) => Self::Failed(reason),
        }
    }
}
