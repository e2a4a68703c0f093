//! A pid file whose owner is killed while it becomes the owner, and while it gives it up.

use std::path::PathBuf;
use std::time::Duration;

use sinew::ErrorKind;
use sinew::pidfile::{Options, owner};
use sinew::wait::Wait;
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};
use sinew_testkit::{Skip, scratch};

use super::Matrix;

struct Created;

fn path() -> PathBuf {
    scratch().join("crash.pid")
}

impl Subject for Created {
    type Handle = ();

    fn name(&self) -> String {
        "pidfile: create, remove".to_owned()
    }

    fn make(&self, _: &Memory) {
        let _ = std::fs::remove_file(path());
    }

    fn open(&self, _: &Memory) {}

    fn operate(&self, (): &mut (), stage: &Stage<'_>) {
        let file = Options::new().create(path()).unwrap();
        stage.enter();
        stage.pause();
        stage.leave();
        drop(file);
    }

    /// The next owner, that waits for the end of this one.
    fn check(&self, (): &mut (), stage: &Stage<'_>) -> Outcome {
        let wait = Wait::timeout(Duration::from_secs(60));
        let file = Options::new().create_wait(path(), wait).map_err(|e| e.to_string())?;
        stage.enter();
        let said = owner(path()).map_err(|e| e.to_string())?.and_then(|owner| owner.said);
        let second = Options::new().create(path()).map_err(|e| e.kind());
        stage.leave();
        drop(file);
        if said != Some(std::process::id()) || second.err() != Some(ErrorKind::InUse) {
            return Err(format!("the file says {said:?}"));
        }
        let left = std::fs::read_dir(scratch()).unwrap().count();
        // Others may have made it theirs by now.
        if left > 1 { Err(format!("{left} files are left")) } else { Ok("owned".to_owned()) }
    }

    /// The file: absent, empty, or with its number of digits.
    fn state(&self, _: &Memory) -> Vec<u8> {
        match std::fs::read(path()) {
            Ok(text) => vec![1, u8::from(text.is_empty())],
            Err(_) => vec![0],
        }
    }
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    matrix.run(&Created, 0, 1)?;
    matrix.run(&Created, 1, 1)?;
    matrix.run(&Created, 4, 1)?;
    let _ = std::fs::remove_file(path());
    Ok(())
}
