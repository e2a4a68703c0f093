//! Our mutexes and libc's robust ones in the list of one thread, in every order.

use std::mem::zeroed;
use std::sync::Arc;

use sinew::LockError;
use sinew::mapping::Mapping;
use sinew::memfd::Memfd;
use sinew::mutex::{Guard, Mutex, Options};
use sinew::wait::Locks;
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

use crate::futex::memory;

pub(crate) const TESTS: &[Test] =
    tests![locks_of_libc_in_between_survive, a_death_marks_the_locks_of_both];
pub(crate) const ROLES: &[Role] = roles![mixed];

/// Ours and libc's by turns, 128 bytes from each other.
const LOCKS: usize = 6;

fn is_libcs(number: usize) -> bool {
    number % 2 == 1
}

/// libc's mutex in the place of this number.
fn libcs(map: &Mapping, number: usize) -> *mut libc::pthread_mutex_t {
    #[allow(clippy::cast_ptr_alignment, reason = "a multiple of 128 from a page")]
    map.as_mut_ptr().wrapping_add(128 * number).cast()
}

fn make(map: &Arc<Mapping>, kind: Options) {
    for number in 0..LOCKS {
        if !is_libcs(number) {
            kind.create_in(map, 128 * number).unwrap();
            continue;
        }
        // SAFETY: all zeroes is a value of it; the next call makes it one with a meaning.
        let mut attributes: libc::pthread_mutexattr_t = unsafe { zeroed() };
        let of = &raw mut attributes;
        // SAFETY: of this fresh attribute.
        assert_eq!(unsafe { libc::pthread_mutexattr_init(of) }, 0);
        // SAFETY: as above.
        let done = unsafe { libc::pthread_mutexattr_setrobust(of, libc::PTHREAD_MUTEX_ROBUST) };
        assert_eq!(done, 0);
        // SAFETY: as above.
        let done = unsafe { libc::pthread_mutexattr_setpshared(of, libc::PTHREAD_PROCESS_SHARED) };
        assert_eq!(done, 0);
        // SAFETY: in memory of its own, large enough and aligned.
        assert_eq!(unsafe { libc::pthread_mutex_init(libcs(map, number), of) }, 0);
    }
}

fn open(map: &Arc<Mapping>) -> Vec<Option<Mutex>> {
    let open = |number| (!is_libcs(number)).then(|| Mutex::open_in(map, 128 * number));
    let opened: Vec<Option<sinew::Result<Mutex>>> = (0..LOCKS).map(open).collect();
    opened.into_iter().map(|mutex| mutex.map(sinew::Result::unwrap)).collect()
}

/// Locks one; what is libc's has no guard.
fn lock<'a>(map: &Mapping, mutexes: &'a [Option<Mutex>], number: usize) -> Option<Guard<'a>> {
    match &mutexes[number] {
        Some(mutex) => Some(mutex.lock().unwrap()),
        None => {
            // SAFETY: made by `make`.
            assert_eq!(unsafe { libc::pthread_mutex_lock(libcs(map, number)) }, 0);
            None
        }
    }
}

fn unlock(map: &Mapping, guards: &mut [Option<Guard<'_>>], number: usize) {
    match guards[number].take() {
        Some(guard) => drop(guard),
        // SAFETY: made by `make`, and locked by this thread.
        None => assert_eq!(unsafe { libc::pthread_mutex_unlock(libcs(map, number)) }, 0),
    }
}

/// Locks all, unlocks some as it is told, says so, and waits for its end.
fn mixed(link: &Link) {
    let map = Arc::new(Memfd::try_from(link.recv_fd()).unwrap().map().unwrap());
    let mutexes = open(&map);
    let mut guards: Vec<_> = (0..LOCKS).map(|number| lock(&map, &mutexes, number)).collect();
    for number in link.hear().split(' ').filter(|word| !word.is_empty()) {
        unlock(&map, &mut guards, number.parse().unwrap());
    }
    link.say("ready");
    let _ = link.try_receive();
}

/// Orders of all, and of some.
const ORDERS: [&[usize]; 8] = [
    &[],
    &[0],
    &[5],
    &[2, 3],
    &[5, 4, 3, 2, 1, 0],
    &[0, 1, 2, 3, 4, 5],
    &[1, 4, 0, 5],
    &[3, 2, 5, 0],
];

fn locks_of_libc_in_between_survive() -> Result<(), Skip> {
    for kind in super::KINDS {
        let (_, map) = memory();
        let map = Arc::new(map);
        make(&map, kind);
        let mutexes = open(&map);
        for order in ORDERS {
            let mut guards: Vec<_> =
                (0..LOCKS).map(|number| lock(&map, &mutexes, number)).collect();
            let rest: Vec<usize> = (0..LOCKS).filter(|n| !order.contains(n)).collect();
            for number in order.iter().chain(&rest) {
                unlock(&map, &mut guards, *number);
                // And again, in another place of the list.
                guards[*number] = lock(&map, &mutexes, *number);
                unlock(&map, &mut guards, *number);
            }
        }
    }
    Ok(())
}

fn a_death_marks_the_locks_of_both() -> Result<(), Skip> {
    for kind in super::KINDS {
        for order in ORDERS {
            let (memfd, map) = memory();
            let map = Arc::new(map);
            make(&map, kind);
            let peer = Peer::spawn("mutex::libc_list::mixed");
            peer.send_fd(&memfd);
            let words: Vec<String> = order.iter().map(usize::to_string).collect();
            peer.say(format!("{} ", words.join(" ")));
            peer.expect("ready");
            peer.kill();
            let mutexes = open(&map);
            for (number, mutex) in mutexes.iter().enumerate() {
                let died = match mutex {
                    Some(mutex) => matches!(mutex.lock(), Err(LockError::OwnerDied(_))),
                    // SAFETY: made by `make`.
                    None => unsafe {
                        libc::pthread_mutex_lock(libcs(&map, number)) == libc::EOWNERDEAD
                    },
                };
                assert_eq!(died, !order.contains(&number), "{number} after {order:?}");
            }
            for number in (0..LOCKS).filter(|n| is_libcs(*n)) {
                // SAFETY: locked by this thread just now.
                unsafe { libc::pthread_mutex_unlock(libcs(&map, number)) };
            }
        }
    }
    Ok(())
}
