//! Places in every interleaving: one party takes each step, whoever dies where.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

use super::{Kind, Role, Slot, State, Word};

/// One place, and what is its member's own.
struct Model {
    word: Atomic,
    /// Set when the member is dead: what makes its pidfd readable.
    dead: AtomicBool,
    /// Touched by the member while it is here, and by who makes good what it left.
    own: UnsafeCell<u32>,
}

struct Atomic(AtomicU64);

impl Word for Atomic {
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn exchange(&self, current: u64, new: u64) -> bool {
        self.0.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Model {
    /// With a newcomer of generation 1 on its way.
    fn joining() -> Arc<Self> {
        let new = State { kind: Kind::Joining, role: Some(Role::Sender), lane: 0, generation: 1 };
        Arc::new(Self {
            word: Atomic(AtomicU64::new(new.word())),
            dead: AtomicBool::new(false),
            own: UnsafeCell::new(0),
        })
    }

    fn slot(&self) -> Slot<'_, Atomic> {
        Slot(&self.word)
    }

    fn kind(&self) -> Kind {
        self.slot().state().unwrap().kind
    }

    /// loom reports two that touch it at once.
    fn touch(&self) {
        self.own.with_mut(|_| ());
    }

    /// A member that dies after so many of its steps, or leaves. Gives whether it was here.
    fn live(&self, steps: u32) -> bool {
        let lives = || {
            if steps == 0 || !self.slot().arrive(1) {
                return false;
            }
            if steps >= 2 {
                self.touch();
            }
            if steps >= 3 {
                assert!(self.slot().leave(1));
            }
            true
        };
        let here = lives();
        self.dead.store(true, Ordering::Release);
        here
    }

    /// A survivor that looks at the pidfd once.
    fn look(&self) {
        if self.dead.load(Ordering::Acquire) {
            self.slot().bury(1);
        }
    }

    /// The holder, with the same look, and who makes good. Gives whether it freed the place.
    fn hold(&self) -> bool {
        self.look();
        if !matches!(self.kind(), Kind::Left | Kind::Dead) {
            return false;
        }
        self.touch();
        self.slot().free(1)
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(model);
}

#[test]
fn attach_and_detach_and_a_death_at_each_step() {
    for steps in 0..4 {
        explore(move || {
            let model = Model::joining();
            let (member, survivor) = (Arc::clone(&model), Arc::clone(&model));
            let member = thread::spawn(move || member.live(steps));
            let survivor = thread::spawn(move || survivor.look());
            let freed = model.hold();
            assert!(member.join().unwrap() || steps == 0);
            survivor.join().unwrap();
            // Nobody comes too late: the next look finds what is left to do.
            assert!(freed || model.hold());
            assert_eq!(model.kind(), Kind::Free);
            let seen = model.slot().state().unwrap();
            assert_eq!(model.slot().allot(seen, Role::Receiver, 1), Some(2));
            // Whoever is late has nothing to say about the next member.
            model.look();
            assert!(!model.slot().arrive(1) && !model.slot().free(1));
            assert_eq!(model.kind(), Kind::Joining);
        });
    }
}

#[test]
fn a_newcomer_arrives_or_its_place_is_taken_back() {
    explore(|| {
        let model = Model::joining();
        let other = Arc::clone(&model);
        let newcomer = thread::spawn(move || {
            let here = other.slot().arrive(1);
            if here {
                other.touch();
            }
            here
        });
        let cancelled = model.slot().cancel(1);
        if cancelled {
            let seen = model.slot().state().unwrap();
            assert_eq!(model.slot().allot(seen, Role::Sender, 0), Some(2));
            assert!(model.slot().arrive(2));
            model.touch();
        }
        assert_ne!(newcomer.join().unwrap(), cancelled);
    });
}

#[test]
fn of_two_that_leave_the_last_one_knows() {
    explore(|| {
        let models = [Model::joining(), Model::joining()];
        for model in &models {
            assert!(model.slot().arrive(1));
        }
        let [one, other] = models.clone();
        let leave = |mine: &Model, others: &Model| {
            assert!(mine.slot().leave(1));
            // loom takes SeqCst accesses for AcqRel.
            loom::sync::atomic::fence(Ordering::SeqCst);
            others.kind() != Kind::Here
        };
        let first = thread::spawn(move || leave(&one, &other));
        let [one, other] = models;
        let last = leave(&other, &one);
        assert!(first.join().unwrap() || last);
    });
}
