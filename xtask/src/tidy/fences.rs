//! Where `unsafe` may stand. ARCHITECTURE.md lists the files, and the list is compared both ways.

use super::source::has_word;
use super::{Finding, Tree};

const LIST: &str = "ARCHITECTURE.md";
/// The heading over the list.
const HEADING: &str = "## Files that may hold `unsafe`";

/// The listed paths with their lines. One that ends with `/` stands for every file below.
fn listed(tree: &Tree) -> Vec<(usize, String)> {
    let Some(file) = tree.file(LIST) else { return Vec::new() };
    file.lines()
        .skip_while(|(_, line)| *line != HEADING)
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "))
        .filter_map(|(number, line)| {
            let (path, _why) = line.strip_prefix("- `")?.split_once('`')?;
            Some((number, path.to_owned()))
        })
        .collect()
}

fn covers(entry: &str, path: &str) -> bool {
    if entry.ends_with('/') { path.starts_with(entry) } else { path == entry }
}

/// Files with `unsafe` are those of the list.
pub(crate) fn unsafe_files(tree: &Tree) -> Vec<Finding> {
    let list = listed(tree);
    let mut found = Vec::new();
    let mut holders = Vec::new();
    for file in tree.rust() {
        let Some((line, _)) = file.code_lines().find(|(_, code)| has_word(code, "unsafe")) else {
            continue;
        };
        holders.push(file.path.as_str());
        if !list.iter().any(|(_, entry)| covers(entry, &file.path)) {
            let what = format!("holds unsafe code and is not listed in {LIST}");
            found.push(Finding::new(&file.path, line, what));
        }
    }
    for (line, entry) in list {
        if !holders.iter().any(|path| covers(&entry, path)) {
            let what = format!("{entry} is listed and holds no unsafe code");
            found.push(Finding::new(LIST, line, what));
        }
    }
    found
}

/// Crates whose every file with `unsafe` is one that tests alone use.
const UNFENCED: &[&str] = &["crates/sinew-testkit/"];

/// The root of every crate denies unsafe code, so that a file must opt in at its top.
pub(crate) fn roots(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|f| f.path.ends_with("/src/lib.rs") || f.path.ends_with("/src/main.rs"))
        .filter(|f| !UNFENCED.iter().any(|crate_| f.path.starts_with(crate_)))
        .filter(|f| {
            let code: String = f.code.split_whitespace().collect();
            !code.contains("#![deny(unsafe_code)]") && !code.contains("#![forbid(unsafe_code)]")
        })
        .map(|f| Finding::new(&f.path, 0, "the root of a crate denies or forbids unsafe_code"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHITECTURE: &str = "# A\n\n## Files that may hold `unsafe`\n\
        - `crates/a/src/fd.rs`: why\n- `crates/a/tests/`: why\n\n## Next\n- `crates/a/src/x.rs`\n";

    #[test]
    fn the_list_and_the_files_are_compared_both_ways() {
        let tree = Tree::of(&[
            (LIST, ARCHITECTURE),
            ("crates/a/src/fd.rs", "unsafe {}"),
            ("crates/a/tests/it/main.rs", "unsafe {}"),
        ]);
        assert_eq!(unsafe_files(&tree), []);

        let tree = Tree::of(&[
            (LIST, ARCHITECTURE),
            ("crates/a/src/fd.rs", "// no unsafe"),
            ("crates/a/src/x.rs", "\nunsafe fn x() {}"),
        ]);
        let found: Vec<_> = unsafe_files(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [("crates/a/src/x.rs".to_owned(), 2), (LIST.to_owned(), 4)];
        assert_eq!(found[..2], expected);
        assert_eq!(found.len(), 3, "a folder without unsafe files is stale too");
    }

    #[test]
    fn a_root_without_a_fence_is_found() {
        let tree = Tree::of(&[
            ("crates/a/src/lib.rs", "#![deny(unsafe_code)]"),
            ("crates/b/src/main.rs", "//! #![forbid(unsafe_code)]\nfn main() {}"),
        ]);
        let found = roots(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "crates/b/src/main.rs");
    }
}
