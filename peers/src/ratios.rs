//! The quotients that say how Sinew stands.

use crate::job::{Placement, Work};
use crate::plan::{KIB, MIB};
use crate::report::{Goal, Measured, Ratio};
use crate::stats;

/// A row, by what it is.
type Key = (&'static str, Work, usize, Placement);

/// What is divided by what, and what is wanted.
struct Wanted {
    what: String,
    over: Key,
    under: Key,
    goal: Goal,
}

fn wanted() -> Vec<Wanted> {
    use Goal::{AtLeast, AtMost};
    use Placement::{OneCpu, TwoCpus, Unpinned};
    let mut all = Vec::new();
    let mut add = |what: &str, over: Key, under: Key, goal| {
        all.push(Wanted { what: what.to_owned(), over, under, goal });
    };
    let busy = |system, size| (system, Work::Busy, size, TwoCpus);
    for (system, goal) in [
        ("bare-bounce-2", AtMost(1.2)),
        ("iceoryx2", AtMost(0.3)),
        ("shmem-ipc", AtMost(1.0)),
        ("aeron", AtMost(1.0)),
        ("rtrb", Goal::None),
        ("bare-ring", Goal::None),
    ] {
        let what = format!("round trip busy 64 B: sinew / {system}");
        add(&what, busy("sinew", 64), busy(system, 64), goal);
    }
    let what = "round trip busy 32 B: sinew / bare-bounce-1";
    add(what, busy("sinew", 32), busy("bare-bounce-1", 32), AtMost(1.25));

    let one_way = |system, size| (system, Work::OneWay, size, TwoCpus);
    let batches = |system| (system, Work::Batches, 64, TwoCpus);
    for (system, goal) in [
        ("bare-ring", AtLeast(0.6)),
        ("iceoryx2", AtLeast(60.0)),
        ("rtrb", AtLeast(1.0)),
        ("aeron", AtLeast(1.0)),
    ] {
        let what = format!("one way 64 B: sinew / {system}");
        add(&what, one_way("sinew", 64), one_way(system, 64), goal);
    }
    let what = "one way 64 B: sinew / aeron in batches";
    add(what, one_way("sinew", 64), batches("aeron"), AtLeast(1.0));
    let what = "one way 64 B: sinew / shmem-ipc in batches";
    add(what, one_way("sinew", 64), batches("shmem-ipc"), AtLeast(1.0));
    let what = "one way 64 B: sinew one by one / sinew in batches";
    add(what, one_way("sinew", 64), batches("sinew"), AtLeast(0.5));
    let what = "one way 64 B: sinew in place / sinew copied";
    add(what, ("sinew", Work::InPlace, 64, TwoCpus), one_way("sinew", 64), Goal::None);
    let what = "one way 1 KiB: sinew / bare-ring";
    add(what, one_way("sinew", KIB), one_way("bare-ring", KIB), Goal::None);
    let what = "one way 64 KiB: sinew / bare-ring";
    add(what, one_way("sinew", 64 * KIB), one_way("bare-ring", 64 * KIB), AtLeast(0.85));
    let what = "one way 64 KiB: sinew / iceoryx2";
    add(what, one_way("sinew", 64 * KIB), one_way("iceoryx2", 64 * KIB), Goal::None);

    let waits = [
        (Work::Blocking, OneCpu),
        (Work::Blocking, TwoCpus),
        (Work::Blocking, Unpinned),
        (Work::Asleep, TwoCpus),
    ];
    for (work, place) in waits {
        for (system, goal) in [
            ("futex", AtMost(1.15)),
            ("iceoryx2", AtMost(1.0)),
            ("ipc-channel", AtMost(1.0)),
            ("pipe", AtMost(1.0)),
            ("unix", AtMost(1.0)),
        ] {
            let what = format!("{} 64 B {}: sinew / {system}", work.name(), place.name());
            add(&what, ("sinew", work, 64, place), (system, work, 64, place), goal);
        }
    }
    let what = "round trip 64 B two-cpus: sinew blocking / sinew busy";
    add(what, ("sinew", Work::Blocking, 64, TwoCpus), busy("sinew", 64), AtMost(1.3));

    let large = |system, work, size| (system, work, size, TwoCpus);
    let what = "8 to 1, 64 B: sinew / iceoryx2";
    add(what, large("sinew", Work::FanIn, 64), large("iceoryx2", Work::FanIn, 64), AtLeast(10.0));
    for (size, name) in [(MIB, "1 MiB"), (100 * MIB, "100 MiB")] {
        // Rates: the quotient of the times upside down.
        let what = format!("{name} in turn, rates: sinew / bare-mapping");
        let (over, under) =
            (large("bare-mapping", Work::Large, size), large("sinew", Work::Large, size));
        add(&what, over, under, AtLeast(0.97));
        let what = format!("{name} overlapped, rates: sinew in parts / iceoryx2");
        let (over, under) =
            (large("iceoryx2", Work::Overlapped, size), large("sinew", Work::Overlapped, size));
        add(&what, over, under, AtLeast(1.2));
        let what = format!("{name} first use, times: sinew / bare-mapping");
        let (over, under) =
            (large("sinew", Work::FirstUse, size), large("bare-mapping", Work::FirstUse, size));
        let goal = if size == MIB { Goal::None } else { AtMost(0.7) };
        add(&what, over, under, goal);
    }
    let start = |system| (system, Work::Start, 64, Unpinned);
    add("start by name: sinew / iceoryx2", start("sinew"), start("iceoryx2"), AtMost(0.1));
    all
}

/// All whose two rows were measured: the median over the rounds of each round's quotient.
pub(crate) fn of(measured: &[Measured]) -> Vec<Ratio> {
    let find = |(system, work, size, placement): Key| {
        measured.iter().find(|one| {
            let row = &one.row;
            (row.system, row.work, row.size, row.placement) == (system, work, size, placement)
        })
    };
    let mut ratios = Vec::new();
    for Wanted { what, over, under, goal } in wanted() {
        let (Some(over), Some(under)) = (find(over), find(under)) else { continue };
        let (over, under) = (over.values(), under.values());
        let quotients: Vec<f64> =
            over.iter().zip(&under).filter_map(|(o, u)| Some((*o)? / (*u)?)).collect();
        if !quotients.is_empty() {
            let (value, ci) = (stats::median(&quotients), stats::interval(&quotients));
            ratios.push(Ratio { what, value, ci, goal });
        }
    }
    ratios
}
