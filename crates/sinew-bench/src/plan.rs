//! Which rows a run has, and why others are left out.

use std::time::Duration;

use sinew::Mechanism;
use sinew::limits::Limit;

use crate::report::{Skipped, WaitKind};
use crate::settings::{BULK_BYTES, Kind, MECHANISMS, Placement, Settings, Work, has_sizes, works};

/// An IPv4 packet of 65535 bytes less 20 of IP header and 8 of UDP header.
const UDP_BYTES: usize = 65_507;

/// One row to measure (a `bulk` one gives several).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlannedRow {
    pub(crate) mechanism: Mechanism,
    pub(crate) work: Work,
    pub(crate) size: usize,
    pub(crate) chunk: usize,
    pub(crate) window: u64,
    pub(crate) placement: Placement,
    pub(crate) wait: WaitKind,
    /// The CPUs of the near and of the far side.
    pub(crate) cpus: [usize; 2],
}

/// How the rows are gone through.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) rows: Vec<PlannedRow>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) works: Vec<Work>,
    pub(crate) placements: Vec<Placement>,
    /// How often all rows are gone through.
    pub(crate) rounds: usize,
    /// Alternating pairs of batches of a row in each round.
    pub(crate) pairs: usize,
    /// Whole bulk payloads of a row in each round.
    pub(crate) payloads: usize,
    /// Measuring time of one row, both kinds of batches and all rounds together.
    pub(crate) duration: Duration,
}

impl Plan {
    pub(crate) fn new(settings: &Settings, cpus: &[usize]) -> Self {
        let mechanisms = if settings.mechanisms.is_empty() {
            MECHANISMS.to_vec()
        } else {
            MECHANISMS.into_iter().filter(|m| settings.mechanisms.contains(m)).collect()
        };
        let sizes = settings.sizes.clone().unwrap_or_else(|| {
            if settings.quick { vec![64, 64 << 10] } else { vec![64, 4 << 10, 64 << 10, 1 << 20] }
        });
        let asked = settings.works.clone().unwrap_or_else(|| Work::ALL.to_vec());
        let mut plan = Self {
            rows: Vec::new(),
            skipped: Vec::new(),
            sizes: sizes.clone(),
            works: asked.clone(),
            placements: Vec::new(),
            rounds: 3,
            pairs: 7,
            payloads: if settings.quick { 2 } else { 3 },
            duration: settings.duration.unwrap_or(Duration::from_millis(if settings.quick {
                84
            } else {
                126
            })),
        };
        for &mechanism in &mechanisms {
            for &work in works(mechanism).iter().filter(|work| asked.contains(work)) {
                let placements = placements(settings, mechanism, work, cpus.len());
                for &placement in &placements {
                    if !plan.placements.contains(&placement) {
                        plan.placements.push(placement);
                    }
                    let sizes = match work {
                        Work::Bulk => &[BULK_BYTES][..],
                        _ if has_sizes(mechanism) => &sizes,
                        _ => &[0],
                    };
                    for &size in sizes {
                        plan.add(settings, mechanism, work, size, placement, cpus);
                    }
                }
            }
        }
        plan
    }

    fn add(
        &mut self,
        settings: &Settings,
        mechanism: Mechanism,
        work: Work,
        size: usize,
        placement: Placement,
        cpus: &[usize],
    ) {
        // Bulk is for comparing copies with shared pages; a quick run does that with one of each.
        let asked = !settings.mechanisms.is_empty() || settings.works.is_some();
        let in_quick = matches!(mechanism, Mechanism::Pipe | Mechanism::Memfd);
        if work == Work::Bulk && settings.quick && !in_quick && !asked {
            return;
        }
        let chunk = if work == Work::Bulk { bulk_chunk(mechanism) } else { size };
        let reason = too_large(mechanism, if work == Work::Bulk { chunk } else { size })
            .or_else(|| unplaceable(placement, cpus));
        if let Some(reason) = reason {
            let mechanism = mechanism.name().to_owned();
            let placement = Some(placement);
            self.skipped.push(Skipped { mechanism, work, size, placement, reason });
            return;
        }
        let wait = match placement {
            Placement::TwoCpusAwake => WaitKind::Awake,
            Placement::OneCpu | Placement::TwoCpus => WaitKind::Blocking,
        };
        let first = cpus.first().copied().unwrap_or(0);
        let second = cpus.get(1).copied().unwrap_or(first);
        self.rows.push(PlannedRow {
            mechanism,
            work,
            size,
            chunk,
            window: window(mechanism, chunk),
            placement,
            wait,
            cpus: if placement == Placement::OneCpu { [first; 2] } else { [first, second] },
        });
    }
}

/// Where a mechanism is measured if nothing is asked for.
fn placements(
    settings: &Settings,
    mechanism: Mechanism,
    work: Work,
    cpus: usize,
) -> Vec<Placement> {
    use Placement::{OneCpu, TwoCpus, TwoCpusAwake};
    if let Some(asked) = &settings.placements {
        return asked.clone();
    }
    let all: &[Placement] = match (Kind::of(mechanism), work) {
        _ if cpus < 2 => &[OneCpu],
        // A large payload is made on one CPU and used on another.
        (Kind::Share | Kind::Channel, Work::Bulk) => &[TwoCpusAwake],
        (_, Work::Bulk) => &[TwoCpus],
        (Kind::Share | Kind::Channel, _) => &[TwoCpusAwake, OneCpu, TwoCpus],
        // Nobody else takes part.
        (_, Work::Uncontended) | (Kind::Process, _) => &[OneCpu],
        // On one CPU they hardly meet.
        (_, Work::Contended) => &[TwoCpus],
        // A CPU that sleeps is late itself.
        (_, Work::Lateness) => &[TwoCpus, TwoCpusAwake],
        _ => &[OneCpu, TwoCpus],
    };
    if settings.quick { all[..1].to_vec() } else { all.to_vec() }
}

fn unplaceable(placement: Placement, cpus: &[usize]) -> Option<String> {
    (placement != Placement::OneCpu && cpus.len() < 2).then(|| {
        "this process may use one CPU only; see taskset(1) and the cgroup's cpuset".to_owned()
    })
}

/// What a message of `size` bytes exceeds.
fn too_large(mechanism: Mechanism, size: usize) -> Option<String> {
    // The kernel keeps some of the send buffer for itself, see `sock_alloc_send_pskb`.
    let limits: &[(Limit, u64)] = match mechanism {
        Mechanism::Udp if size > UDP_BYTES => {
            return Some(format!("a UDP datagram over IPv4 has at most {UDP_BYTES} bytes"));
        }
        Mechanism::UnixDgram | Mechanism::UnixSeqpacket => &[(Limit::WmemDefault, 32)],
        Mechanism::PosixMq => &[(Limit::MqMsgsizeMax, 0)],
        Mechanism::SysvMq => &[(Limit::MsgMax, 0), (Limit::MsgMnb, 0)],
        _ => &[],
    };
    limits.iter().find_map(|(limit, kept)| {
        let room = limit.value()?.saturating_sub(*kept);
        (size as u64 > room).then(|| {
            format!("a message has at most {room} bytes: {}; {}", limit.stated(), limit.raise())
        })
    })
}

/// The messages that a bulk payload is cut into: as large as suits the mechanism.
fn bulk_chunk(mechanism: Mechanism) -> usize {
    let within = |limit: Limit| limit.value().map_or(8192, |bytes| bytes.min(8192) as usize);
    match mechanism {
        Mechanism::UnixDgram | Mechanism::UnixSeqpacket => 64 << 10,
        Mechanism::Udp => 32 << 10,
        Mechanism::PosixMq => within(Limit::MqMsgsizeMax),
        Mechanism::SysvMq => within(Limit::MsgMax),
        _ => 1 << 20,
    }
}

/// UDP drops what the receive buffer has no room for, so the sender waits for a nod after as many
/// datagrams as surely fit: the kernel counts about twice the bytes and 768 for each datagram.
fn window(mechanism: Mechanism, message: usize) -> u64 {
    if mechanism != Mechanism::Udp {
        return 0;
    }
    let buffer = Limit::RmemDefault.value().unwrap_or(212_992);
    (buffer / (2 * message as u64 + 1536)).clamp(1, 128)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            mechanisms: Vec::new(),
            sizes: None,
            works: None,
            placements: None,
            duration: None,
            quick: false,
            input: None,
        }
    }

    #[test]
    fn every_mechanism_has_a_row() {
        for quick in [false, true] {
            let plan = Plan::new(&Settings { quick, ..settings() }, &[0, 1]);
            for mechanism in MECHANISMS.into_iter().filter(|m| has_sizes(*m)) {
                assert!(plan.rows.iter().any(|r| r.mechanism == mechanism && r.size == 64));
            }
            for mechanism in MECHANISMS.into_iter().filter(|m| !has_sizes(*m)) {
                assert!(plan.rows.iter().any(|r| r.mechanism == mechanism && r.size == 0));
            }
            assert!(plan.rounds * plan.pairs >= 15, "a floor ratio has at least 15 pairs");
        }
    }

    #[test]
    fn one_cpu_leaves_out_what_needs_two() {
        let plan = Plan::new(&settings(), &[3]);
        assert!(plan.rows.iter().all(|r| r.placement == Placement::OneCpu && r.cpus == [3, 3]));
        assert!(MECHANISMS.iter().all(|m| plan.rows.iter().any(|r| r.mechanism == *m)));
        let placements = Some(vec![Placement::TwoCpus]);
        let plan = Plan::new(&Settings { placements, ..settings() }, &[3]);
        assert!(plan.rows.is_empty());
        assert!(plan.skipped.iter().all(|s| s.placement == Some(Placement::TwoCpus)));
    }

    #[test]
    fn what_exceeds_a_limit_is_skipped_and_says_so() {
        let sizes = Some(vec![1 << 20]);
        let plan = Plan::new(&Settings { sizes, ..settings() }, &[0, 1]);
        let reason = &plan.skipped.iter().find(|s| s.mechanism == "udp").expect("skipped").reason;
        assert!(reason.contains("65507"), "{reason}");
    }
}
