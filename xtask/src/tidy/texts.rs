//! What holds for every text: length, nothing left for later, no paths of one machine, headers.

use super::{File, Finding, Tree};

/// How many lines of code a source file may have; comments and blank lines are free, so that
/// nobody saves on documentation.
const LONGEST: usize = 600;

/// Files that may be longer, and why.
const MAY_BE_LONGER: &[(&str, &str)] = &[
    ("crates/sinew/src/mechanism/table.rs", "a table: one row for each mechanism"),
    ("crates/sinew/tests/it/", "tests of one mechanism stand together"),
    ("crates/sinew-cli/tests/it/", "tests of one command stand together"),
];

/// The longest file that is read at all.
const LONGEST_EVER: usize = 1200;

pub(crate) fn lengths(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.rust() {
        let count = file.code_lines().filter(|(_, code)| !code.trim().is_empty()).count();
        let listed = MAY_BE_LONGER.iter().any(|(start, _)| file.path.starts_with(start));
        let bound = if listed { LONGEST_EVER } else { LONGEST };
        if count > bound {
            let what = format!("{count} lines of code, more than {bound}: split it");
            found.push(Finding::new(&file.path, 0, what));
        }
    }
    for file in tree.0.iter().filter(|f| f.path == "ARCHITECTURE.md") {
        let count = file.text.lines().count();
        if count > 250 {
            found.push(Finding::new(&file.path, 0, format!("{count} lines, more than 250")));
        }
    }
    found
}

/// The checks themselves name what they look for.
fn is_check(file: &File) -> bool {
    file.path.starts_with("xtask/src/tidy/")
}

/// No marks of unfinished work, and no test that is switched off.
pub(crate) fn leftovers(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.rust().filter(|f| !is_check(f)) {
        for (number, line) in file.lines() {
            for mark in ["TODO", "FIXME", "XXX", "HACK"] {
                if super::source::has_word(line, mark) {
                    let what = format!("{mark}: finish it, or open an issue");
                    found.push(Finding::new(&file.path, number, what));
                }
            }
        }
        for (number, code) in file.code_lines() {
            let code: String = code.split_whitespace().collect();
            let off = code.contains("#[ignore") || code.contains("#[cfg_attr(ignore");
            if off || code.contains("unimplemented!(") || code.contains("todo!(") {
                let what = "a test or a function that is switched off";
                found.push(Finding::new(&file.path, number, what));
            }
        }
    }
    found
}

/// Paths that exist on one machine only.
pub(crate) fn machine_paths(tree: &Tree) -> Vec<Finding> {
    const PATHS: &[&str] = &["/work/", "/tmp/wt", "/root/", "/home/", "/Users/"];
    let mut found = Vec::new();
    for file in tree.0.iter().filter(|f| !is_check(f)) {
        for (number, line) in file.lines() {
            let hit = PATHS.iter().find(|path| {
                // `a/work/b` and `https://x/home/` are other things.
                line.match_indices(*path).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || "_-.}".contains(c))
                })
            });
            if let Some(path) = hit {
                let what = format!("{path} is a path of one machine");
                found.push(Finding::new(&file.path, number, what));
            }
        }
    }
    found
}

/// Each source file begins with its own documentation.
pub(crate) fn headers(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|f| {
            let first = f.text.lines().find(|l| !l.starts_with("#![") && !l.trim().is_empty());
            !first.is_some_and(|l| l.starts_with("//!"))
        })
        .map(|f| Finding::new(&f.path, 1, "begin with `//!`: what the file is"))
        .collect()
}

/// Links from one document to another file.
pub(crate) fn links(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.0.iter().filter(|f| f.path.ends_with(".md")) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line) in file.lines() {
            for rest in line.split("](").skip(1) {
                let target = rest.split(')').next().unwrap_or("");
                let path = target.split('#').next().unwrap_or("");
                if path.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let path = resolve(folder, path);
                let holds = tree
                    .0
                    .iter()
                    .any(|f| f.path == path || f.path.starts_with(&format!("{path}/")));
                if !holds {
                    found.push(Finding::new(&file.path, number, format!("no such file: {target}")));
                }
            }
        }
    }
    found
}

fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What a document must say word for word, because people copy it.
const SAID: &[(&str, &[&str])] = &[
    ("README.md", &["cargo run --release -- bench", "cargo test --workspace"]),
    ("CONTRIBUTING.md", &["cargo xtask tidy", "cargo xtask ci", "cargo test --workspace"]),
    (".github/workflows/checks.yml", &["bash .ci/run"]),
    (".ci/run", &["cargo xtask ci"]),
];

pub(crate) fn commands(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, lines) in SAID {
        let text = tree.file(path).map_or("", |f| f.text.as_str());
        for line in lines.iter().filter(|line| !text.contains(*line)) {
            found.push(Finding::new(path, 0, format!("does not state `{line}`")));
        }
    }
    found
}

const ARGUMENTS: &str = "crates/sinew-cli/src/arguments.rs";

/// Every long option of the command is in the README or the guide.
pub(crate) fn options(tree: &Tree) -> Vec<Finding> {
    let Some(arguments) = tree.file(ARGUMENTS) else { return Vec::new() };
    let mut found = Vec::new();
    let mut long = false;
    for (number, code) in arguments.code_lines() {
        let code = code.trim();
        if code.starts_with("#[") {
            long |= code.starts_with("#[arg(") && super::source::has_word(code, "long");
            continue;
        }
        // A field ends its attributes.
        let field = code.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        let Some((field, _)) = field.split_once(':') else { continue };
        if !field.is_empty() && field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let flag = format!("--{}", field.replace('_', "-"));
            let told = tree.0.iter().any(|f| {
                (f.path == "README.md" || f.path.starts_with("docs/")) && f.text.contains(&flag)
            });
            if long && !told {
                let what = format!("{flag} is neither in README.md nor in docs/");
                found.push(Finding::new(ARGUMENTS, number, what));
            }
            long = false;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_counts_for_the_length() {
        let long = |n: usize| "fn f() {}\n".repeat(n) + &"// words\n\n".repeat(900);
        let tree = Tree::of(&[
            ("crates/a/src/fits.rs", &long(LONGEST)),
            ("crates/a/src/long.rs", &long(LONGEST + 1)),
            ("crates/sinew/tests/it/fits.rs", &long(LONGEST + 1)),
        ]);
        let found: Vec<_> = lengths(&tree).into_iter().map(|f| f.path).collect();
        assert_eq!(found, ["crates/a/src/long.rs"]);
    }

    #[test]
    fn unfinished_work_is_found() {
        let tree = Tree::of(&[
            ("a.rs", "// TODO: more\nlet s = \"FIXME\";\n"),
            ("b.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() { todo!() }\n"),
            ("c.rs", "// ignore this: #[ignore]\nfn todos() {}\n"),
        ]);
        let found: Vec<_> = leftovers(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [("a.rs", 1), ("a.rs", 2), ("b.rs", 2), ("b.rs", 3)];
        assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)));
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let tree = Tree::of(&[
            ("a.md", "see /home/me/x\nsee https://example.org/home/x\n"),
            ("b.sh", "cd $x/work/y\ncd \"/work/y\"\n"),
        ]);
        let found: Vec<_> = machine_paths(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [("a.md".to_owned(), 1), ("b.sh".to_owned(), 2)];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        let tree = Tree::of(&[("a.rs", "#![allow(x)]\n//! Is a.\n"), ("b.rs", "use x;\n//! b\n")]);
        assert_eq!(headers(&tree).len(), 1);
    }

    #[test]
    fn a_broken_link_is_found() {
        let tree = Tree::of(&[
            ("docs/a.md", "[b](b.md#x) [c](../C.md) [d](https://e) [f](folder) [g](#here)"),
            ("docs/b.md", "[gone](gone.md)"),
            ("docs/folder/x.md", ""),
            ("C.md", ""),
        ]);
        let found: Vec<_> = links(&tree).into_iter().map(|f| f.path).collect();
        assert_eq!(found, ["docs/b.md"]);
    }

    #[test]
    fn an_option_without_documentation_is_found() {
        let arguments = "struct A {\n    /// Names.\n    #[arg(value_name = \"X\")]\n    names: B,\n\
            #[arg(long, value_name = \"S\")]\n    #[arg(long_help = \"a\\\n  b: c\")]\n\
            pub(crate) size_list: C,\n    #[arg(short, long)]\n    told: D,\n}";
        let tree = Tree::of(&[(ARGUMENTS, arguments), ("docs/a.md", "say `--told`")]);
        let found: Vec<_> = options(&tree).into_iter().map(|f| f.what).collect();
        assert_eq!(found, ["--size-list is neither in README.md nor in docs/"]);
    }

    #[test]
    fn a_missing_command_is_found() {
        let mut texts: Vec<(&str, String)> = Vec::new();
        for (path, lines) in SAID {
            texts.push((path, lines.join("\n")));
        }
        let tree = |texts: &[(&str, String)]| {
            let texts: Vec<(&str, &str)> = texts.iter().map(|(p, t)| (*p, t.as_str())).collect();
            commands(&Tree::of(&texts))
        };
        assert_eq!(tree(&texts), []);
        texts[0].1.clear();
        assert_eq!(tree(&texts).len(), 2);
    }
}
