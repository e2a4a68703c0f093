//! Sealed memory without a name, between two real processes.

use sinew::ErrorKind;
use sinew::memfd::{Memfd, Options, Seals};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

pub(crate) const TESTS: &[Test] = tests![two_processes_share_a_memfd];
pub(crate) const ROLES: &[Role] = roles![doubler];

/// Takes a memfd, doubles its first word, and says how long it is.
fn doubler(link: &Link) {
    let memfd = Memfd::try_from(link.recv_fd()).unwrap();
    memfd.require(Seals::SHRINK | Seals::GROW).unwrap();
    let map = memfd.map().unwrap();
    let word = map.atomic_u32_at(0).unwrap();
    word.store(
        word.load(std::sync::atomic::Ordering::Acquire) * 2,
        std::sync::atomic::Ordering::Release,
    );
    link.say(map.len());
}

fn two_processes_share_a_memfd() -> Result<(), Skip> {
    let memfd = Options::new().create("shared", 5000).unwrap();
    let map = memfd.map().unwrap();
    map.write_at(0, &21_u32.to_ne_bytes()).unwrap();
    let peer = Peer::spawn("memfd::doubler");
    peer.send_fd(&memfd);
    peer.expect("5000");
    assert_eq!(map.load_u32_at(0), Some(42));
    peer.join();
    assert_eq!(map.read_at(4999, &mut [0; 2]).unwrap_err().kind(), ErrorKind::InvalidInput);
    Ok(())
}
