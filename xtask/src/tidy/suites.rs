//! The lists that the test suites keep by hand are in step with their files.

use super::source::words;
use super::{File, Finding, Tree};

const SUITES: &[&str] = &["crates/sinew/tests/it/", "crates/sinew-cli/tests/it/"];

/// The files of a suite with the paths of their modules: `pipe`, `interop::queues`.
fn areas<'a>(tree: &'a Tree, suite: &str) -> Vec<(String, &'a File)> {
    tree.rust()
        .filter_map(|file| {
            let name = file.path.strip_prefix(suite)?.strip_suffix(".rs")?;
            (name != "main").then(|| (name.replace('/', "::"), file))
        })
        .collect()
}

/// Every file of a suite is a module of its `main.rs` and is added there.
pub(crate) fn listed(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for suite in SUITES {
        let Some(main) = tree.file(&format!("{suite}main.rs")) else { continue };
        for (area, file) in areas(tree, suite) {
            let (parent, name) = match area.rsplit_once("::") {
                Some((parent, name)) => {
                    let path = format!("{suite}{}.rs", parent.replace("::", "/"));
                    (tree.file(&path), name)
                }
                None => (Some(main), area.as_str()),
            };
            let declared = parent.is_some_and(|p| p.code.contains(&format!("mod {name};")));
            let added = main.code.contains(&format!("({area}::TESTS"));
            // A file without tests is a part of others.
            let has_tests = file.code.contains("TESTS");
            if !declared || (has_tests && !added) {
                let what = format!("{area} is not in {suite}main.rs: its tests never run");
                found.push(Finding::new(&file.path, 0, what));
            }
            found.extend(unlisted(file));
        }
    }
    found
}

/// Test functions that stand in no `tests![..]`.
fn unlisted(file: &File) -> Vec<Finding> {
    let lists: Vec<&str> = lists(&file.code, "tests![");
    let mut found = Vec::new();
    for (line, code) in file.code_lines() {
        let Some((before, name)) = code.split_once("fn ") else { continue };
        let Some((name, _)) = name.split_once("() -> Result<(), Skip>") else { continue };
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if before.trim().is_empty() && is_name && !lists.contains(&name) {
            found.push(Finding::new(&file.path, line, format!("{name} is in no tests![..]")));
        }
    }
    found
}

/// The names in every list that is opened by `opening`.
fn lists<'a>(code: &'a str, opening: &str) -> Vec<&'a str> {
    code.split(opening)
        .skip(1)
        .flat_map(|rest| words(rest.split(']').next().unwrap_or("")))
        .collect()
}

/// Every line of a `may-skip.txt` names a test that exists.
pub(crate) fn skips(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for suite in SUITES {
        let Some(list) = tree.file(&format!("{suite}may-skip.txt")) else { continue };
        let tests: Vec<String> = areas(tree, suite)
            .into_iter()
            .flat_map(|(area, file)| {
                lists(&file.code, "tests![").into_iter().map(move |name| format!("{area}::{name}"))
            })
            .collect();
        for (number, line) in list.lines() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let Some((who, pattern)) = line.split_once(' ') else {
                found.push(Finding::new(&list.path, number, "write WHO NAME"));
                continue;
            };
            if !["root", "user", "any"].contains(&who) {
                found.push(Finding::new(&list.path, number, "WHO is root, user or any"));
            }
            let pattern = pattern.trim();
            let names_one = match pattern.strip_suffix('*') {
                Some(start) => tests.iter().any(|t| t.starts_with(start)),
                None => tests.iter().any(|t| t == pattern),
            };
            if !names_one {
                let what = format!("no test is called {pattern}");
                found.push(Finding::new(&list.path, number, what));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "mod pipe;\nmod fifo;\nfn main() { add(pipe::TESTS, pipe::ROLES) }";
    const PIPE: &str = "pub(crate) const TESTS: &[Test] = tests![a_fact, another];\n\
        fn a_fact() -> Result<(), Skip> {}\nfn another() -> Result<(), Skip> {}\n";

    #[test]
    fn a_file_that_never_runs_is_found() {
        let it = "crates/sinew/tests/it/";
        let path = |name: &str| format!("{it}{name}");
        let tree = Tree::of(&[
            (&path("main.rs"), MAIN),
            (&path("pipe.rs"), PIPE),
            (&path("fifo.rs"), "const TESTS: () = tests![];"),
            (
                &path("unix.rs"),
                "fn lost() -> Result<(), Skip> {}\n\
                fn part(of: impl FnOnce() -> Result<(), Skip>) -> Result<(), Skip> {}",
            ),
            (&path("pipe/packets.rs"), "const TESTS: () = tests![];"),
        ]);
        let found: Vec<_> = listed(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [
            (path("fifo.rs"), 0),
            (path("unix.rs"), 0),
            (path("unix.rs"), 1),
            (path("pipe/packets.rs"), 0),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_stale_skip_is_found() {
        let list = "# words\nroot pipe::a_fact # why\nany pipe::*\nuser pipe::gone\n\
            none pipe::another\nany fifo::*\nbroken\n";
        let tree = Tree::of(&[
            ("crates/sinew/tests/it/main.rs", MAIN),
            ("crates/sinew/tests/it/pipe.rs", PIPE),
            ("crates/sinew/tests/it/may-skip.txt", list),
        ]);
        let found: Vec<_> = skips(&tree).into_iter().map(|f| f.line).collect();
        assert_eq!(found, [4, 5, 6, 7]);
    }
}
