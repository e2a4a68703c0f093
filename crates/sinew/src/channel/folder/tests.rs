//! Which folder is taken, and which is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o7777
}

/// `run` and `tmp` in a folder of the test.
fn places() -> (TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().expect("a folder");
    set_mode(root.path(), 0o700);
    let (run, tmp) = (root.path().join("run"), root.path().join("tmp"));
    fs::create_dir(&run).expect("mkdir");
    fs::create_dir(&tmp).expect("mkdir");
    (root, run, tmp)
}

fn error_of(path: &Path, rule: Rule, me: u32) -> Error {
    let folder = Folder { path: path.to_owned(), rule };
    folder.open_as(me, true).expect_err("it is refused")
}

#[test]
fn the_runtime_folder_of_the_user_comes_first() {
    let (root, run, tmp) = places();
    let folder = Folder::choose(Some(root.path().as_os_str()), user(), &run, &tmp).expect("chosen");
    assert_eq!(folder.path(), root.path().join("sinew"));
    assert_eq!(mode(folder.path()), 0o700);
    // The same again, now that it is there.
    let again = Folder::choose(Some(root.path().as_os_str()), user(), &run, &tmp).expect("chosen");
    assert_eq!(again, folder);
}

#[test]
fn a_runtime_folder_that_is_not_the_users_own_is_not_used() {
    let (root, run, tmp) = places();
    let open = root.path().join("open");
    fs::create_dir(&open).expect("mkdir");
    set_mode(&open, 0o755);
    let missing = root.path().join("missing");
    let not_mine = [open.as_os_str(), missing.as_os_str(), OsStr::new("sinew-test-relative")];
    let expected =
        if user() == 0 { run.join("sinew") } else { tmp.join(format!("sinew-{}", user())) };
    for runtime in not_mine.map(Some).into_iter().chain([None]) {
        let folder = Folder::choose(runtime, user(), &run, &tmp).expect("chosen");
        assert_eq!(folder.path(), expected, "with {runtime:?}");
    }
    assert_eq!(mode(&expected), 0o700);
}

#[test]
fn what_another_user_made_in_tmp_is_refused_and_both_are_named() {
    let (_root, run, tmp) = places();
    let other = user() + 1;
    let made_before = tmp.join(format!("sinew-{other}"));
    fs::create_dir(&made_before).expect("mkdir");
    set_mode(&made_before, 0o700);
    let error = Folder::choose(None, other, &run, &tmp).expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let text = error.to_string();
    assert!(
        text.contains(&format!("belongs to user {}, and this is user {other}", user())),
        "{text}"
    );
}

#[test]
fn a_folder_that_others_can_enter_is_refused_with_the_way_to_mend_it() {
    let root = tempfile::tempdir().expect("a folder");
    for wrong in [0o755, 0o710, 0o701, 0o600] {
        set_mode(root.path(), wrong);
        let error = error_of(root.path(), Rule::Private, user());
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = error.to_string();
        assert!(text.contains(&format!("{wrong:04o}")) && text.contains("chmod 700"), "{text}");
    }
    set_mode(root.path(), 0o700);
}

#[test]
fn links_and_files_are_no_folder() {
    let root = tempfile::tempdir().expect("a folder");
    set_mode(root.path(), 0o700);
    let (link, file) = (root.path().join("link"), root.path().join("file"));
    symlink(root.path(), &link).expect("symlink");
    fs::write(&file, "kept").expect("write");
    for path in [&link, &file] {
        let error = error_of(path, Rule::Private, user());
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    }
    assert_eq!(fs::read(&file).expect("read"), b"kept");
    // Who names a folder may name it by a link.
    assert!(Folder::at(&link).is_ok());
    assert_eq!(Folder::at(&file).expect_err("a file").kind(), ErrorKind::Mismatch);
}

#[test]
fn a_given_folder_is_there_and_of_this_user_or_root() {
    let root = tempfile::tempdir().expect("a folder");
    set_mode(root.path(), 0o755);
    let missing = Folder::at(root.path().join("missing")).expect_err("not there");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(!root.path().join("missing").exists());

    let folder = Folder::at(root.path()).expect("of this user");
    assert!(folder.path().is_absolute());
    if user() != 0 {
        let error = error_of(root.path(), Rule::Given, user() + 1);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
    assert!(Folder::at("/").is_ok(), "of root");

    set_mode(root.path(), 0o777);
    let error = Folder::at(root.path()).expect_err("everybody could replace a name");
    assert!(error.to_string().contains("chmod +t"), "{error}");
    set_mode(root.path(), 0o1777);
    assert!(Folder::at(root.path()).is_ok());
}

#[test]
fn the_overflow_id_is_nobody_where_some_have_no_number() {
    assert!(is_identity(0));
    // In the first user namespace everybody has one.
    assert_eq!(is_identity(65534), has_all_users());
}
