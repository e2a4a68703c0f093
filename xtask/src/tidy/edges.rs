//! Who may depend on whom: crates by their manifests, modules of the library by the paths they name.

use super::source::words;
use super::{File, Finding, Tree};

/// What each crate may depend on: for users, then for its tests.
const CRATES: &[(&str, &[&str], &[&str])] = &[
    ("sinew", &[], &["sinew-testkit"]),
    ("sinew-bench", &["sinew"], &["sinew-testkit"]),
    ("sinew-cli", &["sinew", "sinew-bench"], &["sinew-testkit"]),
    // What tests the library does not trust the library.
    ("sinew-testkit", &[], &[]),
    ("xtask", &[], &[]),
];

/// What each part of the library may name of the others.
const MODULES: &[(&str, &[&str])] = &[
    ("kernel", &[]),
    ("error", &["mechanism"]),
    ("mechanism", &["error", "limits"]),
    ("limits", &["error", "kernel", "mechanism"]),
    ("wait", &["error", "kernel"]),
    ("sysv", &["error"]),
    ("syscall", &[]),
    ("fork", &["kernel"]),
    ("copy", BASE),
    ("share", BASE),
    // What is guarded, and what guards it, live in shared memory.
    (
        "sync",
        &["error", "fork", "kernel", "limits", "mechanism", "share", "syscall", "sysv", "wait"],
    ),
    ("event", BASE),
    // A child is given listening sockets; its end is an event, and is told by signals.
    ("process", &["copy", "event", "error", "kernel", "limits", "mechanism", "sysv", "wait"]),
    // Memory, locks and bells to make messages of; sockets to find each other; pidfds to prove a death.
    (
        "channel",
        &[
            "copy",
            "error",
            "event",
            "fork",
            "kernel",
            "limits",
            "mechanism",
            "process",
            "share",
            "sync",
            "syscall",
            "wait",
        ],
    ),
];
const BASE: &[&str] =
    &["error", "fork", "kernel", "limits", "mechanism", "syscall", "sysv", "wait"];

/// What `lib.rs` gives a second name at the root of the library.
const RENAMED: &[(&str, &str)] = &[
    ("Error", "error"),
    ("ErrorKind", "error"),
    ("LockError", "error"),
    ("RecvError", "error"),
    ("Result", "error"),
    ("SendError", "error"),
    ("Stop", "error"),
    ("WaitError", "error"),
    ("Mechanism", "mechanism"),
];

const LIBRARY: &str = "crates/sinew/src/";

/// Manifests name only the crates they may.
pub(crate) fn crates(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.0.iter().filter(|f| f.path.ends_with("/Cargo.toml")) {
        let Some(name) = package_name(file) else { continue };
        if file.path != format!("crates/{name}/Cargo.toml") && file.path != "xtask/Cargo.toml" {
            continue;
        }
        let Some((_, uses, tests)) = CRATES.iter().find(|(n, ..)| *n == name) else {
            let what = format!("{name} has no row in the table of xtask/src/tidy/edges.rs");
            found.push(Finding::new(&file.path, 0, what));
            continue;
        };
        let mut section = "";
        for (number, line) in file.lines() {
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_end_matches(']');
                continue;
            }
            let allowed: &[&[&str]] = match section {
                "dependencies" | "build-dependencies" => &[uses],
                "dev-dependencies" => &[uses, tests],
                _ => continue,
            };
            let dependency = line.split(['.', '=', ' ']).next().unwrap_or("").trim_matches('"');
            let own = CRATES.iter().any(|(n, ..)| *n == dependency);
            if own && !allowed.concat().contains(&dependency) {
                let what = format!("{name} may not depend on {dependency} in [{section}]");
                found.push(Finding::new(&file.path, number, what));
            }
        }
    }
    found
}

fn package_name(file: &File) -> Option<&str> {
    let mut lines = file.text.lines().skip_while(|line| *line != "[package]");
    lines.find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
}

/// Modules of the library name only what is below them.
pub(crate) fn modules(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    let flat = flat_names(tree);
    for file in tree.rust() {
        let Some(inside) = file.path.strip_prefix(LIBRARY) else { continue };
        let area = inside.split(['/', '.']).next().unwrap_or(inside);
        if area == "lib" {
            continue;
        }
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == area) else {
            let what = format!("{area} has no row in the table of xtask/src/tidy/edges.rs");
            found.push(Finding::new(&file.path, 0, what));
            continue;
        };
        for (line, name) in named(&file.code, "crate::") {
            let renamed = RENAMED.iter().find(|(n, _)| *n == name).map(|(_, module)| *module);
            let target = flat
                .iter()
                .find(|(n, _)| *n == name)
                .map_or(renamed.unwrap_or(name), |(_, area)| area.as_str());
            if target != area && !allowed.contains(&target) {
                let what = format!("{area} may not name {target} (crate::{name})");
                found.push(Finding::new(&file.path, line, what));
            }
        }
    }
    found
}

/// The modules that `lib.rs` re-exports from the folders: `pipe` is in `copy`.
fn flat_names(tree: &Tree) -> Vec<(String, String)> {
    let Some(root) = tree.file("crates/sinew/src/lib.rs") else { return Vec::new() };
    let mut flat = Vec::new();
    for item in root.code.split(';') {
        let Some((_, path)) = item.split_once("pub use ") else { continue };
        let Some((area, names)) = path.split_once("::") else { continue };
        if matches!(area, "copy" | "share" | "sync" | "event" | "process") {
            flat.extend(words(names).map(|name| (name.to_owned(), area.to_owned())));
        }
    }
    flat
}

/// The names directly after `prefix` in `code`, groups in braces included, with their lines.
fn named<'a>(code: &'a str, prefix: &str) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.extend(words(rest).next().map(|name| (line, name)));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            let ends = depth == 0 && matches!(c, ',' | '}');
            if ends {
                found.extend(words(&group[start..i]).next().map(|name| (line, name)));
                start = i + 1;
            }
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    found
}

/// The floor is the same work in bare system calls: it shares no code with what it is held against.
pub(crate) fn floor(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.rust() {
        let Some(inside) = file.path.strip_prefix("crates/sinew-bench/src/floor") else { continue };
        if !inside.starts_with(['.', '/']) {
            continue;
        }
        for (line, name) in named(&file.code, "sinew::") {
            let what = format!("the floor may not name sinew::{name}");
            found.push(Finding::new(&file.path, line, what));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_upwards_between_crates_is_found() {
        let tree = Tree::of(&[
            (
                "crates/sinew/Cargo.toml",
                "[package]\nname = \"sinew\"\n[dependencies]\nlibc.workspace = true\n\
                 sinew-bench.workspace = true\n[dev-dependencies]\nsinew-testkit.workspace = true\n",
            ),
            ("crates/new/Cargo.toml", "[package]\nname = \"new\"\n"),
        ]);
        let found: Vec<_> = crates(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected =
            [("crates/sinew/Cargo.toml".to_owned(), 5), ("crates/new/Cargo.toml".to_owned(), 0)];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_edge_upwards_between_modules_is_found() {
        let tree = Tree::of(&[
            (
                "crates/sinew/src/lib.rs",
                "mod copy; mod share;\npub use copy::{pipe, unix};\npub use share::memfd;\n\
                 pub use error::Error;",
            ),
            ("crates/sinew/src/copy/pipe.rs", "use crate::{Error, wait::{Wait, Mode}, unix};"),
            ("crates/sinew/src/share/memfd.rs", "// crate::pipe\nuse crate::{Error, unix};"),
            ("crates/sinew/src/wait.rs", "fn f() { crate::copy::pipe::x() }"),
            ("crates/sinew/src/extra.rs", ""),
        ]);
        let found: Vec<_> = modules(&tree).into_iter().map(|f| f.to_string()).collect();
        let expected = [
            "crates/sinew/src/share/memfd.rs:2: share may not name copy (crate::unix)",
            "crates/sinew/src/wait.rs:1: wait may not name copy (crate::copy)",
            "crates/sinew/src/extra.rs: extra has no row in the table of xtask/src/tidy/edges.rs",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_floor_may_not_use_what_it_is_held_against() {
        let tree = Tree::of(&[
            ("crates/sinew-bench/src/floor.rs", "use std::io;\nuse sinew::pipe;"),
            ("crates/sinew-bench/src/floor/unix.rs", "fn f() { sinew::unix::x() }"),
            ("crates/sinew-bench/src/floors.rs", "use sinew::pipe;"),
        ]);
        assert_eq!(floor(&tree).len(), 2);
    }
}
