//! The steps of a hosted run, which are the steps at the desk. Each is printed with the line that
//! repeats it; the first failure ends the run; skips are listed with their reasons at the end.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::tally::Tally;

/// The ordinary user of the tests: nobody, on every Linux.
const NOBODY: &str = "65534";

/// How a step is run.
enum Run {
    /// A command line of one program.
    Plain(&'static [&'static str]),
    /// The same, whose output is counted as tests.
    Tests(&'static [&'static str]),
    /// The suites once more as an ordinary user, without a network.
    User,
    /// Tests in the interpreter that finds undefined behaviour, where it is installed.
    Miri(&'static [&'static str]),
}

struct Step {
    name: &'static str,
    about: &'static str,
    env: &'static [(&'static str, &'static str)],
    run: Run,
}

const STEPS: &[Step] = &[
    Step {
        name: "format",
        about: "one format",
        env: &[],
        run: Run::Plain(&["cargo", "fmt", "--all", "--check"]),
    },
    Step {
        name: "lints",
        about: "no warnings",
        env: &[],
        run: Run::Plain(&[
            "cargo",
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    },
    Step {
        name: "tidy",
        about: "the house rules",
        env: &[],
        run: Run::Plain(&["cargo", "xtask", "tidy"]),
    },
    Step {
        name: "docs",
        about: "documentation without warnings",
        env: &[("RUSTDOCFLAGS", "-D warnings")],
        run: Run::Plain(&["cargo", "doc", "--workspace", "--no-deps"]),
    },
    Step {
        name: TEST,
        about: "the test command of the README, to its end whatever fails",
        env: &[],
        run: Run::Tests(&["cargo", "test", "--workspace", "--no-fail-fast"]),
    },
    Step {
        name: "user",
        about: "the suites of library and command as an ordinary user, without a network",
        env: &[],
        run: Run::User,
    },
    Step {
        name: "fallbacks",
        about: "the library as on the oldest kernel: every newer feature forced off",
        env: &[("SINEW_WITHOUT", "all")],
        run: Run::Tests(&["cargo", "test", "--package", "sinew", "--test", "it"]),
    },
    Step {
        name: "release",
        about: "the library optimised: the counts of instructions hold only there",
        env: &[],
        run: Run::Tests(&["cargo", "test", "--release", "--package", "sinew", "--test", "it"]),
    },
    Step {
        name: "bench",
        about: "the other command of the README, in its short form: every byte is checked",
        env: &[],
        run: Run::Plain(&["cargo", "run", "--release", "--", "bench", "--quick"]),
    },
    Step {
        name: "sabotage",
        about: "two builds that are wrong on purpose: the models, the crash driver or the tests notice",
        env: &[],
        run: Run::Plain(&["cargo", "xtask", "sabotage", "--sample"]),
    },
    Step {
        name: "loom",
        about: "the lock cores in every interleaving that the memory model allows",
        env: &[],
        run: Run::Tests(&["cargo", "xtask", "loom"]),
    },
    Step {
        name: "miri",
        about: "what makes no system calls, in an interpreter that finds undefined behaviour",
        // Words that are atomics at one time and bytes at another end it where it emulates weak memory (compare its
        // issue 5185). That is what the models under loom are for.
        // It has no memory that the kernel wipes in a child.
        env: &[(
            "MIRIFLAGS",
            "-Zmiri-strict-provenance -Zmiri-disable-weak-memory-emulation -Zmiri-env-set=SINEW_WITHOUT=all",
        )],
        run: Run::Miri(&[
            "cargo",
            "+nightly",
            "miri",
            "test",
            "--package",
            "sinew",
            "--lib",
            "--",
            // Their tests are of sockets, files and processes.
            "--skip=channel::folder",
            "--skip=channel::member",
            "--skip=channel::name",
            "--skip=channel::queue::tests::ends",
            "--skip=channel::queue::tests::property",
            "--skip=channel::service",
        ]),
    },
];

/// The step whose count closes the run.
const TEST: &str = "test";

/// How a step ended.
enum End {
    Passed,
    Failed,
    /// It does not apply here, and why.
    Skipped(&'static str),
}

/// `cargo xtask ci [STEP...]`.
pub(crate) fn command(root: &Path, names: &[&str]) -> ExitCode {
    if names == ["--list"] {
        for step in STEPS {
            println!("{:<10} {}\n           {}", step.name, step.about, step.line());
        }
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = names.iter().find(|name| STEPS.iter().all(|s| s.name != **name)) {
        eprintln!("no step is called {unknown:?}; `cargo xtask ci --list` lists them");
        return ExitCode::from(2);
    }
    let chosen = STEPS.iter().filter(|s| names.is_empty() || names.contains(&s.name));
    let mut done: Vec<(&Step, End, Tally, Duration)> = Vec::new();
    for step in chosen {
        println!("\n=== {}: {}\n$ {}", step.name, step.about, step.line());
        let start = Instant::now();
        let mut tally = Tally::default();
        let end = step.run(root, &mut tally).unwrap_or_else(|e| {
            eprintln!("{e}");
            End::Failed
        });
        let failed = matches!(end, End::Failed);
        done.push((step, end, tally, start.elapsed()));
        if failed {
            break;
        }
    }
    report(&done)
}

fn report(done: &[(&Step, End, Tally, Duration)]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    println!("\n=== skipped checks, and why");
    for (step, _, tally, _) in done {
        for skip in &tally.skips {
            println!("{}: {skip}", step.name);
        }
    }
    println!("\n=== steps");
    for (step, end, tally, time) in done {
        let counted = if tally == &Tally::default() { String::new() } else { tally.to_string() };
        let (word, more) = match end {
            End::Passed => ("ok", counted),
            End::Skipped(why) => ("skipped", (*why).to_owned()),
            End::Failed => {
                code = ExitCode::FAILURE;
                ("FAILED", format!("{counted}; repeat with: {}", step.line()))
            }
        };
        println!("{:<10} {word:<8} {:>6.1} s  {more}", step.name, time.as_secs_f64());
    }
    // The closing line counts the test command of the README where it ran, else all that ran.
    let readme = done.iter().find(|(step, ..)| step.name == TEST).map(|(_, _, tally, _)| tally);
    let mut sum = Tally::default();
    for (_, _, tally, _) in done {
        sum.passed += tally.passed;
        sum.failed += tally.failed;
        sum.skipped += tally.skipped;
    }
    println!("\n{}", readme.unwrap_or(&sum));
    code
}

impl Step {
    /// The line that repeats it.
    fn line(&self) -> String {
        let words = match &self.run {
            Run::Plain(words) | Run::Tests(words) | Run::Miri(words) => *words,
            Run::User => &["cargo", "xtask", "ci", "user"],
        };
        let mut line = String::new();
        for (name, value) in self.env {
            let quote = if value.contains(' ') { "\"" } else { "" };
            line += &format!("{name}={quote}{value}{quote} ");
        }
        line + &words.join(" ")
    }

    fn run(&self, root: &Path, tally: &mut Tally) -> std::io::Result<End> {
        let command = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).envs(self.env.iter().copied()).current_dir(root);
            command
        };
        let passed = match &self.run {
            Run::Plain(words) => command(words).status()?.success(),
            Run::Tests(words) => counted(&mut command(words), tally)?,
            Run::User => return as_ordinary_user(root, tally),
            Run::Miri(words) => {
                if !works("cargo", &["+nightly", "miri", "setup"]) {
                    return Ok(End::Skipped("no nightly Rust with miri and rust-src is installed"));
                }
                counted(&mut command(words), tally)?
            }
        };
        Ok(if passed { End::Passed } else { End::Failed })
    }
}

/// Runs a test command, passing its output on and counting it.
fn counted(command: &mut Command, tally: &mut Tally) -> std::io::Result<bool> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            tally.read(&line);
            let mut own = std::io::stdout().lock();
            writeln!(own, "{line}")?;
        }
    }
    Ok(child.wait()?.success())
}

/// Runs the built suites as an ordinary user in a network namespace of their own. They are copied to
/// a folder of that user first, since the checkout may lie where only root can go.
fn as_ordinary_user(root: &Path, tally: &mut Tally) -> std::io::Result<End> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(End::Skipped("this is an ordinary user already: the test step was this"));
    }
    if !works("setpriv", &["--version"]) {
        return Ok(End::Skipped("setpriv of util-linux is not installed"));
    }
    let folder = Folder::new()?;
    let mut suites = Vec::new();
    for package in ["sinew", "sinew-cli"] {
        let Some(built) = built_suite(root, package)? else { return Ok(End::Failed) };
        for program in built.iter().rev() {
            // The suite itself is the last; the command it tests stands beside it.
            let name = program.file_name().unwrap_or_default();
            let copy = folder.0.join(name);
            fs::copy(program, &copy)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        }
        if let Some(suite) = built.last() {
            suites.push(folder.0.join(suite.file_name().unwrap_or_default()));
        }
    }
    let home = folder.0.join("home");
    fs::create_dir(&home)?;
    let nobody = 65534;
    std::os::unix::fs::chown(&home, Some(nobody), Some(nobody))?;

    let alone = works("unshare", &["--net", "--", "ip", "link", "set", "lo", "up"]);
    if !alone {
        println!("(with the network: `unshare --net -- ip link set lo up` does not work here)");
    }
    let mut passed = true;
    for suite in suites {
        let mut words: Vec<&str> = Vec::new();
        if alone {
            let up = "ip link set lo up && exec \"$@\"";
            words.extend(["unshare", "--net", "--", "sh", "-c", up, "sh"]);
        }
        let (uid, gid) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
        words.extend(["setpriv", &uid, &gid, "--clear-groups", "--no-new-privs"]);
        let suite = suite.to_string_lossy().into_owned();
        words.push(&suite);
        println!("$ {}", words.join(" "));
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(&home)
            .env("HOME", &home)
            .env("TMPDIR", &home)
            .env("SINEW_TEST_COMMAND", folder.0.join("sinew"));
        passed &= counted(&mut command, tally)?;
    }
    Ok(if passed { End::Passed } else { End::Failed })
}

fn works(program: &str, arguments: &[&str]) -> bool {
    let quiet = || Stdio::null();
    let mut command = Command::new(program);
    command.args(arguments).stdin(quiet()).stdout(quiet()).stderr(quiet());
    command.status().is_ok_and(|status| status.success())
}

/// The programs that cargo builds for the suite of `package`, the suite last. None: it did not build.
fn built_suite(root: &Path, package: &str) -> std::io::Result<Option<Vec<PathBuf>>> {
    let words = ["test", "--no-run", "--message-format=json", "--package", package, "--test", "it"];
    let output =
        Command::new("cargo").args(words).current_dir(root).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let programs = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        Some(PathBuf::from(rest.split('"').next()?))
    });
    let mut programs: Vec<PathBuf> = programs.collect();
    let is_suite = |p: &PathBuf| p.components().any(|c| c.as_os_str() == "deps");
    programs.sort_by_key(is_suite);
    Ok(Some(programs))
}

/// A folder that everybody can read, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("sinew-user-{}", std::process::id()));
        fs::create_dir(&path)?;
        let folder = Self(path);
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755))?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
