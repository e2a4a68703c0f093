//! Names of files and modules.

use super::source::words;
use super::{Finding, Tree};

/// Names that say nothing of what is inside.
const BANNED: &[&str] = &[
    "util",
    "utils",
    "common",
    "helper",
    "helpers",
    "prelude",
    "internal",
    "internals",
    "detail",
    "details",
    "types",
    "misc",
];

/// No `mod.rs`, and no name that says nothing.
pub(crate) fn names(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.rust() {
        if file.stem() == "mod" {
            found.push(Finding::new(&file.path, 0, "write name.rs beside name/ instead of mod.rs"));
        }
        let parts = file.path.trim_end_matches(".rs").split('/');
        for part in parts.filter(|part| BANNED.contains(part)) {
            found.push(Finding::new(&file.path, 0, format!("the name {part:?} says nothing")));
        }
        for (line, code) in file.code_lines() {
            let mut words = words(code);
            while let Some(word) = words.next() {
                if word == "mod"
                    && let Some(name) = words.next()
                    && BANNED.contains(&name)
                {
                    let what = format!("the name {name:?} says nothing");
                    found.push(Finding::new(&file.path, line, what));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_nothing_are_found() {
        let tree = Tree::of(&[
            ("crates/a/src/pipe.rs", "mod packets;\nuse x::types;"),
            ("crates/a/src/pipe/mod.rs", ""),
            ("crates/a/src/utils.rs", ""),
            ("crates/a/src/common/x.rs", ""),
            ("crates/a/src/y.rs", "\npub(crate) mod helpers {}"),
        ]);
        let found: Vec<_> = names(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [
            ("crates/a/src/pipe/mod.rs".to_owned(), 0),
            ("crates/a/src/utils.rs".to_owned(), 0),
            ("crates/a/src/common/x.rs".to_owned(), 0),
            ("crates/a/src/y.rs".to_owned(), 2),
        ];
        assert_eq!(found, expected);
    }
}
