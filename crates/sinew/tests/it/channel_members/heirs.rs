//! Who has the name when its holder is killed or leaves, and the next one too.

use std::fs;
use std::os::fd::AsFd;

use rustix::process::Signal;
use sinew::ErrorKind;
use sinew::pidfd::PidFd;
use sinew::wait::Waits;
use sinew_testkit::{Peer, Role, Skip, Test, roles, scratch, tests};

use super::{SENDERS, has_room_for, receive, receiver, sends, start};
use crate::pipe::{stop, until_asleep};

pub(crate) const TESTS: &[Test] = tests![
    a_name_is_not_taken_from_stopped_survivors,
    a_newcomer_joins_the_survivors_of_a_killed_holder,
    an_heir_may_leave_at_once,
    the_last_ones_may_leave_together,
];
pub(crate) const ROLES: &[Role] = roles![];

fn gone() -> bool {
    fs::symlink_metadata(scratch().join("test")).is_err()
}

fn a_name_is_not_taken_from_stopped_survivors() -> Result<(), Skip> {
    let holder = start("create");
    let survivor = start("open");
    stop(&survivor);
    holder.kill();
    let held = format!("it is to go to {}, stopped", survivor.pid().as_raw_nonzero());
    let error = receiver().create("test").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(error.to_string().contains(&held), "{error}");
    let newcomers = ["open or create", "open"].map(|how| {
        let newcomer = Peer::spawn("channel_members::member");
        newcomer.say(how);
        until_asleep(newcomer.pid());
        newcomer
    });
    survivor.signal(Signal::CONT);
    for newcomer in &newcomers {
        newcomer.expect("here");
    }
    let receiver = receive();
    for peer in newcomers.iter().chain([&survivor]) {
        sends(peer, &receiver);
        peer.say("leave");
        peer.expect("gone");
    }
    drop(receiver);
    assert!(gone());
    Ok(())
}

fn a_newcomer_joins_the_survivors_of_a_killed_holder() -> Result<(), Skip> {
    for how in [0, 1, 2].repeat(10) {
        let mut holder = Some(start("create"));
        let survivor = start("open");
        if how == 1 {
            holder.take().unwrap().kill();
        } else {
            holder.as_ref().unwrap().signal(Signal::KILL);
        }
        // Whoever has it meanwhile: it is one channel.
        let receiver = match how {
            2 => receiver().open("test").unwrap(),
            _ => receiver().open_or_create("test").unwrap(),
        };
        receiver.outlast_senders(true);
        sends(&survivor, &receiver);
        drop(receiver);
        survivor.say("leave");
        survivor.expect("gone");
        holder.map(Peer::kill);
        assert!(gone());
    }
    Ok(())
}

fn an_heir_may_leave_at_once() -> Result<(), Skip> {
    for forks in [false, true] {
        for _ in 0..10 {
            let holder = start("create");
            let heirs = [start("open"), start("open")];
            let survivor = start("open");
            let (ends, child) = if forks {
                let (reader, writer) = std::io::pipe().unwrap();
                holder.send(b"fd", &[reader.as_fd()]);
                let child: u32 = holder.hear().parse().unwrap();
                (Some(writer), Some(PidFd::open(child).unwrap()))
            } else {
                (None, None)
            };
            holder.kill();
            for heir in &heirs {
                heir.say("leave");
            }
            let receiver = receive();
            sends(&survivor, &receiver);
            for heir in heirs {
                heir.expect("gone");
            }
            has_room_for(SENDERS as usize - 1);
            drop(ends);
            if let Some(child) = child {
                child.exited().wait().unwrap();
            }
            drop(receiver);
            survivor.say("leave");
            survivor.expect("gone");
            assert!(gone());
        }
    }
    Ok(())
}

fn the_last_ones_may_leave_together() -> Result<(), Skip> {
    for how in [0, 1, 2].repeat(20) {
        let holder = start("create");
        let others = [start("open"), start("open")];
        match how {
            // The heir may have been told by then, and may have the socket, or not.
            0 => {
                for peer in [&holder, &others[0], &others[1]] {
                    peer.say("leave");
                    peer.expect("gone");
                }
            }
            1 => {
                let all = [&holder, &others[0], &others[1]];
                all.iter().for_each(|peer| peer.say("leave"));
                all.iter().for_each(|peer| peer.expect("gone"));
            }
            _ => {
                holder.kill();
                others.iter().for_each(|peer| peer.say("leave"));
                others.iter().for_each(|peer| peer.expect("gone"));
            }
        }
        assert!(gone(), "{how}");
    }
    Ok(())
}
