//! What `--help` teaches beyond the options. The manual pages hold the same sections.

/// A heading and what stands below it, line by line.
pub(crate) type Section = (&'static str, &'static [&'static str]);

const EXIT: Section = (
    "Exit status",
    &[
        "0  all went well",
        "1  something failed: a row, or writing the result; standard error says what",
        "2  bad usage; standard error says in one line what is wrong and what would be right",
    ],
);

const ENVIRONMENT: Section = (
    "Environment",
    &[
        "NO_COLOR       if set and not empty, no colour and no bold, also on a terminal",
        "SINEW_WITHOUT  names of kernel features to do without (all of them: all), which forces",
        "               the ways that older kernels need",
    ],
);

/// Of a command that runs long enough to be interrupted.
const EXIT_OF_A_RUN: Section = (
    "Exit status",
    &[
        "0  all went well",
        "1  something failed: a row, or writing the result; standard error says what",
        "2  bad usage; standard error says in one line what is wrong and what would be right",
        "After Ctrl-C it cleans up and ends by SIGINT, which a shell shows as 130.",
    ],
);

pub(crate) const SINEW: &[Section] = &[
    (
        "Examples",
        &[
            "sinew bench --quick         what this machine can do, in 20 seconds",
            "sinew bench pipe memfd      two mechanisms side by side",
            "sinew mechanisms            what each can do, in one table",
            "sinew mechanisms posix-mq   all about one, and the limits of this host",
        ],
    ),
    EXIT,
    ENVIRONMENT,
];

pub(crate) const BENCH: &[Section] = &[
    (
        "What the numbers mean",
        &[
            "A round trip is one message there and one back; the table shows the median (p50), and",
            "the p99 of the smallest size: of a hundred round trips, one took longer. JSON and CSV",
            "have all of min, p50, p90, p99, p99.9, max and mean.",
            "",
            "A stream shows payload bytes a second, and messages a second of the smallest size.",
            "",
            "bulk is one payload of 100 MiB. First use: every page of memory is new, and touching",
            "it costs. Repeated use: the same memory again. Hand-over: a memfd that is filled",
            "already is sealed and its descriptor passed; the time does not depend on the size.",
            "",
            "What carries no data has works of its own: a lock that nobody else wants (uncontended),",
            "one that both want all the time (contended), one that its owner leaves to a sleeper",
            "(hand-over); a sleeping process that is woken (wake); a timer that is late (lateness).",
            "Wakes and hand-overs are timed from the call in one process to the other one running.",
            "",
            "calls      system calls of both processes together for one message",
            "faults     page faults of both processes for each MiB of payload",
            "over bare  time through the library divided by the time of the same work in bare",
            "           system calls, with the 95 % interval: 1.00 means that it costs nothing",
            "over floor the same for what carries no data: glibc's own, process-shared, for mutex",
            "           (robust), condvar and posix-sem; its robust mutex, alone and with a condvar,",
            "           for rwlock and barrier; bare calls for the rest",
            "blocking   a receiver of shared memory sleeps on a futex while it waits",
            "awake      it spins, and needs a CPU of its own for that",
            "*          the best of its column (in bold on a terminal)",
            "a b        doubts: why to distrust the cell, in notes below the tables",
            "",
            "Rounds over all rows are interleaved, so that a machine that changes its speed hits",
            "all alike. Compare rows of one run; rows of different runs may differ by the weather.",
        ],
    ),
    (
        "Examples",
        &[
            "sinew bench --quick",
            "sinew bench pipe unix-stream --works round-trip --sizes 64,4K",
            "sinew bench memfd --works bulk --input /usr/bin/python3",
            "sinew bench tcp --placement one-cpu,two-cpus --duration 2s",
            "sinew bench --format json -o result.json",
            "sinew bench --format csv | cut -d, -f1,2,4,9",
        ],
    ),
    (
        "What it leaves behind",
        &[
            "Nothing: queues, segments, files and processes are gone when it ends, also after",
            "Ctrl-C and after a worker was killed. What kill -9 of all its processes leaves is",
            "removed by the next run.",
        ],
    ),
    EXIT_OF_A_RUN,
    ENVIRONMENT,
];

pub(crate) const MECHANISMS: &[Section] = &[
    (
        "Columns of the table",
        &[
            "carries   bytes (a stream), messages (boundaries kept), memory, a number, events, or",
            "          order alone (who goes and who waits)",
            "named by  how two processes find the same object",
            "lives     reference: while somebody has it open or mapped; kernel: until removed;",
            "          file-system: as its file; memory: as what it lies in; process: as its owner",
            "poll      fits poll, select and epoll",
            "fds       can pass file descriptors",
            "prio      urgent messages overtake others",
            "creds     the kernel says who the sender is",
            "largest   the largest message here and now, without privileges",
        ],
    ),
    (
        "Examples",
        &[
            "sinew mechanisms",
            "sinew mechanisms unix-seqpacket",
            "sinew mechanisms --json | jq '.mechanisms[] | select(.passes_fds) | .name'",
            "sinew mechanisms --json | jq '.limits[] | {name, value}'",
        ],
    ),
    EXIT,
];

pub(crate) const COMPLETIONS: &[Section] = &[
    (
        "Examples",
        &[
            "sinew completions bash > ~/.local/share/bash-completion/completions/sinew",
            "sinew completions zsh > ~/.zfunc/_sinew",
            "sinew completions fish > ~/.config/fish/completions/sinew.fish",
        ],
    ),
    EXIT,
];

pub(crate) const MAN: &[Section] =
    &[("Examples", &["sinew man | man -l -", "sinew man -o ~/.local/share/man/man1"]), EXIT];

/// The sections of a command.
pub(crate) fn sections(command: &str) -> &'static [Section] {
    match command {
        "bench" => BENCH,
        "mechanisms" => MECHANISMS,
        "completions" => COMPLETIONS,
        "man" => MAN,
        _ => SINEW,
    }
}

/// The sections as they end a help text.
pub(crate) fn text(sections: &[Section]) -> String {
    let mut out = String::new();
    for (heading, lines) in sections {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(heading);
        out.push_str(":\n");
        for line in *lines {
            if !line.is_empty() {
                out.push_str("  ");
                out.push_str(line);
            }
            out.push('\n');
        }
    }
    out.truncate(out.trim_end().len());
    out
}
