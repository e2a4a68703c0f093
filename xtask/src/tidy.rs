//! The house rules as checks. `cargo xtask tidy` prints every breach with its place; the same runs
//! as a test, so that `cargo test --workspace` covers it.
//!
//! A rule is a function from the [`Tree`] to findings, and is tested on small made-up trees: a rule
//! that cannot fail is none.

mod edges;
mod fences;
mod names;
mod source;
mod suites;
mod texts;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The file, from the root of the repository.
    path: String,
    /// The line, counted from one; 0 where the file as a whole is meant.
    line: usize,
    /// What is wrong and what to do.
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// One file.
#[derive(Debug)]
pub(crate) struct File {
    /// Its path from the root, with `/`.
    path: String,
    text: String,
    /// The same text with comments and the contents of literals blanked out. Rust files only.
    code: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let rust = Path::new(path).extension().is_some_and(|e| e == "rs");
        let code = if rust { source::code_only(text) } else { String::new() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// `mutex` for `crates/sinew/src/sync/mutex.rs`.
    fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.split('.').next().unwrap_or(name)
    }

    /// The numbered lines of the text.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// The numbered lines of the code.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.lines())
    }
}

/// Every text file of the repository.
#[derive(Debug, Default)]
pub(crate) struct Tree(Vec<File>);

/// What belongs to the machine and not to the repository.
const FOREIGN: &[&str] = &[".git", "target", "node_modules"];
/// The same, where it lies at the root.
const FOREIGN_AT_ROOT: &str = "shared";

impl Tree {
    fn read(root: &Path) -> std::io::Result<Self> {
        let mut files = Vec::new();
        collect(root, "", &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self(files))
    }

    fn file(&self, path: &str) -> Option<&File> {
        self.0.iter().find(|f| f.path == path)
    }

    fn rust(&self) -> impl Iterator<Item = &File> {
        self.0.iter().filter(|f| f.is_rust())
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| File::new(path, text)).collect())
    }
}

fn collect(root: &Path, under: &str, files: &mut Vec<File>) -> std::io::Result<()> {
    for entry in fs::read_dir(root.join(under))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if FOREIGN.contains(&name.as_str()) || under.is_empty() && name == FOREIGN_AT_ROOT {
            continue;
        }
        let path = if under.is_empty() { name } else { format!("{under}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file()
            // What is no text is no source.
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            files.push(File::new(&path, &text));
        }
    }
    Ok(())
}

type Rule = fn(&Tree) -> Vec<Finding>;

/// Every rule, under the name that the report gives it.
const RULES: &[(&str, Rule)] = &[
    ("unsafe only in the files listed in ARCHITECTURE.md", fences::unsafe_files),
    ("crate roots refuse unsafe code", fences::roots),
    ("files and modules are named for the domain", names::names),
    ("crates depend downwards only", edges::crates),
    ("modules of the library depend downwards only", edges::modules),
    ("the floor of the bench knows nothing of the library", edges::floor),
    ("files stay short", texts::lengths),
    ("nothing is left for later", texts::leftovers),
    ("no paths of one machine", texts::machine_paths),
    ("each source file says what it is", texts::headers),
    ("links between documents hold", texts::links),
    ("documents state the commands", texts::commands),
    ("documents mention every option of the command", texts::options),
    ("every test file is in its suite", suites::listed),
    ("the list of skips names tests that exist", suites::skips),
];

fn findings(tree: &Tree) -> Vec<(&'static str, Vec<Finding>)> {
    RULES.iter().map(|(name, rule)| (*name, rule(tree))).collect()
}

/// `cargo xtask tidy`.
pub(crate) fn command(root: &Path) -> ExitCode {
    let tree = match Tree::read(root) {
        Ok(tree) => tree,
        Err(e) => {
            eprintln!("cannot read the repository at {}: {e}", root.display());
            return ExitCode::FAILURE;
        }
    };
    let mut breaches = 0;
    for (rule, found) in findings(&tree) {
        if !found.is_empty() {
            println!("{rule}:");
        }
        for finding in &found {
            println!("  {finding}");
        }
        breaches += found.len();
    }
    if breaches > 0 {
        println!("{breaches} breaches of the house rules");
        return ExitCode::FAILURE;
    }
    println!("tidy: {} rules hold over {} files", RULES.len(), tree.0.len());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_follows_the_house_rules() {
        let tree = Tree::read(&crate::root()).unwrap();
        assert!(tree.rust().count() > 20, "the walk sees the sources");
        let breaches: Vec<String> = findings(&tree)
            .into_iter()
            .flat_map(|(rule, found)| found.into_iter().map(move |f| format!("{rule}: {f}")))
            .collect();
        assert!(breaches.is_empty(), "{}", breaches.join("\n"));
    }
}
