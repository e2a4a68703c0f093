//! The limits that a queue can hit, and how they are named.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sinew::ErrorKind;
use sinew::posix_mq::Options;
use sinew_testkit::{Role, Skip, Test, census, roles, skip, tests};

use super::{Name, alone, setting};

pub(crate) const TESTS: &[Test] = tests![
    the_cost_is_what_the_kernel_counts,
    a_limit_of_proc_is_named,
    a_queue_too_large_for_the_user_is_told_from_one_descriptor_too_many,
    queues_of_the_user_fill_the_limit,
    too_many_queues_name_the_limit,
];
pub(crate) const ROLES: &[Role] = roles![];

fn soft_limit(resource: Resource, value: u64) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: Some(value), maximum }).unwrap();
}

fn the_cost_is_what_the_kernel_counts() -> Result<(), Skip> {
    alone()?;
    for (depth, bytes) in [(1, 1), (1, 8192), (10, 8192), (7, 100)] {
        let options = Options::new().depth(depth).message_bytes(bytes);
        let cost = options.cost();
        let name = Name::new("cost");
        soft_limit(Resource::Msgqueue, cost - 1);
        let error = options.create(&name.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(error.to_string().contains(&format!("need {cost} bytes")), "{error}");
        assert!(
            error.to_string().contains(&format!("RLIMIT_MSGQUEUE ({} bytes)", cost - 1)),
            "{error}"
        );
        soft_limit(Resource::Msgqueue, cost);
        options.create(&name.0).unwrap();
    }
    assert_eq!(Options::new().depth(usize::MAX).message_bytes(usize::MAX).cost(), u64::MAX);
    Ok(())
}

fn a_limit_of_proc_is_named() -> Result<(), Skip> {
    let name = Name::new("over");
    for (options, words) in [
        (Options::new().depth(0), "at least one message"),
        (Options::new().message_bytes(0), "at least one byte"),
    ] {
        let error = options.create(&name.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert!(error.to_string().contains(words), "{error}");
    }
    alone()?;
    let (depth, bytes) = (setting("msg_max"), setting("msgsize_max"));
    for (options, asked, file, max) in [
        (Options::new().depth(depth + 1), depth + 1, "msg_max", depth),
        (Options::new().message_bytes(bytes + 1), bytes + 1, "msgsize_max", bytes),
    ] {
        let error = options.create(&name.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("{asked} ")), "{text}");
        assert!(text.contains(&format!("fs.mqueue.{file} ({max}")), "{text}");
    }
    for (options, words) in [
        (Options::new().depth(65_537), "65537 messages are more than the 65536"),
        (Options::new().message_bytes(usize::MAX), "more than the 16777216"),
    ] {
        let error = options.create(&name.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    // Exactly the limit is allowed.
    Options::new().depth(depth).message_bytes(1).create(&name.0).unwrap();
    Ok(())
}

fn a_queue_too_large_for_the_user_is_told_from_one_descriptor_too_many() -> Result<(), Skip> {
    let name = Name::new("emfile");
    let options = Options::new().depth(4).message_bytes(64);
    let msgqueue = getrlimit(Resource::Msgqueue).current.unwrap_or(u64::MAX >> 1);
    soft_limit(Resource::Msgqueue, 100);
    let bytes = options.create(&name.0).unwrap_err();
    soft_limit(Resource::Msgqueue, msgqueue);

    let queue = options.create(&name.0).unwrap();
    let nofile = getrlimit(Resource::Nofile).current.unwrap();
    soft_limit(Resource::Nofile, 0);
    let descriptors =
        [options.create(format!("{}-2", name.0)).unwrap_err(), options.open(&name.0).unwrap_err()];
    soft_limit(Resource::Nofile, nofile);
    drop(queue);

    assert_eq!(bytes.raw_os_error(), Some(libc::EMFILE));
    assert_eq!(bytes.kind(), ErrorKind::LimitReached);
    let text = bytes.to_string();
    for words in ["4 messages of 64 bytes need 640 bytes", "RLIMIT_MSGQUEUE", "100", "ulimit -q"] {
        assert!(text.contains(words), "{text}");
    }
    for error in descriptors {
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        let text = error.to_string();
        assert!(text.contains("RLIMIT_NOFILE (0)") && !text.contains("MSGQUEUE"), "{text}");
    }
    Ok(())
}

fn queues_of_the_user_fill_the_limit() -> Result<(), Skip> {
    alone()?;
    let options = Options::new().depth(2).message_bytes(256);
    soft_limit(Resource::Msgqueue, 3 * options.cost() + 1);
    let before = census::descriptors();
    let mut queues = Vec::new();
    let error = loop {
        let name = Name::new(&queues.len().to_string());
        // The name goes at once, the bytes count as long as the queue is open.
        match options.create(&name.0) {
            Ok(queue) => queues.push(queue),
            Err(error) => break error,
        }
    };
    assert_eq!(queues.len(), 3);
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    let text = error.to_string();
    for words in
        ["2 messages of 256 bytes need 704 bytes", "this user's other queues leave", "2113"]
    {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(census::descriptors().len(), before.len() + 3);
    queues.pop();
    let name = Name::new("again");
    options.create(&name.0).unwrap();
    Ok(())
}

fn too_many_queues_name_the_limit() -> Result<(), Skip> {
    alone()?;
    if let Err(e) = std::fs::write("/proc/sys/fs/mqueue/queues_max", "1") {
        return skip(format!("the limit cannot be lowered: {e}"));
    }
    let first = Name::new("first");
    let _queue = Options::new().depth(1).create(&first.0).unwrap();
    let second = Name::new("second");
    let error = Options::new().depth(1).create(&second.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!(error.to_string().contains("fs.mqueue.queues_max (1)"), "{error}");
    Ok(())
}
