//! A report made by hand, with everything in it that a report can have.

use sinew_bench::report::{
    Distribution, Host, Report, Row, SettingsUsed, Skipped, Usage, WaitKind,
};
use sinew_bench::settings::{BULK_BYTES, MECHANISMS, carries_data, shares_pages, works};
use sinew_bench::{Placement, Work};

/// A distribution around a median.
fn around(p50: f64) -> Distribution {
    Distribution {
        min: p50 * 0.8,
        p50,
        p90: p50 * 1.2,
        p99: p50 * 1.9,
        p999: p50 * 4.0,
        max: p50 * 30.0,
        mean: p50 * 1.1,
    }
}

/// A full run on a virtual machine whose CPUs sleep.
pub(crate) fn report() -> Report {
    let sizes = vec![64, 4 << 10, 64 << 10, 1 << 20];
    let mut report = Report {
        schema: 1,
        host: Host {
            kernel: "6.18.44".to_owned(),
            arch: "x86_64".to_owned(),
            cpu: "AMD EPYC 9R14".to_owned(),
            cpus: 2,
            memory_bytes: 33_600_000_000,
            hypervisor: Some("KVM".to_owned()),
            sinew: "0.1.0".to_owned(),
        },
        settings: SettingsUsed {
            quick: false,
            sizes: sizes.clone(),
            works: Work::ALL.to_vec(),
            placements: Placement::ALL.to_vec(),
            duration_ms: 126,
            rounds: 3,
            input: None,
        },
        rows: Vec::new(),
        skipped: Vec::new(),
        failed: Vec::new(),
    };
    for (index, mechanism) in MECHANISMS.into_iter().enumerate() {
        if !carries_data(mechanism) {
            for &work in works(mechanism) {
                let ns = 20.0 + 1000.0 * index as f64;
                report.rows.push(row(mechanism.name(), work, 0, Placement::OneCpu, ns, false));
            }
            continue;
        }
        let shared = shares_pages(mechanism);
        let base = if shared { 100.0 } else { 3000.0 + 211.0 * index as f64 };
        for work in [Work::RoundTrip, Work::Stream] {
            for placement in Placement::ALL {
                if placement == Placement::TwoCpusAwake && !shared {
                    continue;
                }
                let slow = match (placement, shared) {
                    (Placement::OneCpu, true) => 23.0,
                    (Placement::TwoCpus, true) => 500.0,
                    (Placement::TwoCpus, false) => 15.0,
                    _ => 1.0,
                };
                for &size in &sizes {
                    if let Some(reason) = too_large(mechanism.name(), size) {
                        let mechanism = mechanism.to_string();
                        let placement = Some(placement);
                        report.skipped.push(Skipped { mechanism, work, size, placement, reason });
                        continue;
                    }
                    let ns = base * slow + size as f64 / 8.0 + 13.0 * index as f64;
                    report.rows.push(row(mechanism.name(), work, size, placement, ns, shared));
                }
            }
        }
        for usage in [Usage::First, Usage::Repeated, Usage::HandOver] {
            if usage == Usage::HandOver && mechanism.name() != "memfd" {
                continue;
            }
            let placement = if shared { Placement::TwoCpusAwake } else { Placement::TwoCpus };
            let ns = match (shared, usage) {
                (false, _) => 55e6 + 2e6 * index as f64,
                (true, Usage::First) => 48e6,
                (true, _) => 9.5e6 + 1e5 * index as f64,
            };
            let mut row = row(mechanism.name(), Work::Bulk, BULK_BYTES, placement, ns, shared);
            row.usage = Some(usage);
            row.faults_per_mib = shared.then_some(if usage == Usage::First { 512.0 } else { 0.0 });
            if usage == Usage::HandOver {
                row.hand_over_ns = Some(around(118_000.0));
            }
            report.rows.push(row);
        }
    }
    report.rows[3].doubts.push("few samples: 412 say little of p99.9".to_owned());
    report.rows[7].doubts.push("few samples: 77 say little of p99.9".to_owned());
    report.rows[7].doubts.push("could not stay on CPU 1: Invalid argument (EINVAL)".to_owned());
    report
}

fn row(name: &str, work: Work, size: usize, placement: Placement, ns: f64, shared: bool) -> Row {
    let awake = placement == Placement::TwoCpusAwake;
    let wait = if awake { WaitKind::Awake } else { WaitKind::Blocking };
    let payload = if work == Work::RoundTrip { 2 * size } else { size };
    Row {
        mechanism: name.to_owned(),
        work,
        usage: None,
        size,
        placement,
        wait: shared.then_some(wait),
        count: 20_000,
        ns: around(ns),
        messages_per_s: 1e9 / ns,
        bytes_per_s: payload as f64 * 1e9 / ns,
        cpu_ns_per_message: Some(ns * 1.4),
        calls_per_message: Some(match (shared, awake, work) {
            (true, true, _) => 0.0,
            (_, _, Work::RoundTrip) => 4.0,
            (_, _, Work::Bulk) => 200.0,
            (_, _, Work::Uncontended) => 0.0,
            _ => 2.0,
        }),
        faults_per_mib: shared.then_some(0.0),
        floor_ratio: (!shared).then_some(1.004),
        floor_ratio_ci: (!shared).then_some([0.991, 1.017]),
        hand_over_ns: None,
        verified: true,
        sha256: None,
        doubts: Vec::new(),
    }
}

fn too_large(name: &str, size: usize) -> Option<String> {
    let (limit, what) = match name {
        "udp" => (65_507, "a UDP datagram over IPv4"),
        "unix-dgram" | "unix-seqpacket" => (212_960, "net.core.wmem_default"),
        "posix-mq" => (8192, "fs.mqueue.msgsize_max"),
        "sysv-mq" => (8192, "kernel.msgmax"),
        _ => return None,
    };
    let remedy =
        if name == "udp" { String::new() } else { format!("; raise it with sysctl {what}=BYTES") };
    (size > limit).then(|| format!("a message has at most {limit} bytes ({what}){remedy}"))
}

/// A row that failed.
pub(crate) fn failure() -> Skipped {
    Skipped {
        mechanism: "sysv-mq".to_owned(),
        work: Work::Stream,
        size: 64,
        placement: Some(Placement::OneCpu),
        reason: "the receiver was killed by signal 9".to_owned(),
    }
}
