//! What an error says, and what becomes of it as an `io::Error`.

use super::*;

fn limit() -> Error {
    Error::os("create", Errno::MFILE)
        .on(Mechanism::PosixMq)
        .object(format!("{:?}", "/jobs"))
        .because("8 queues fill RLIMIT_MSGQUEUE (819200 bytes)")
        .fix("raise it: ulimit -q")
}

#[test]
fn the_text_has_the_object_the_operation_the_cause_and_the_fix_in_this_order() {
    assert_eq!(
        limit().to_string(),
        "posix-mq \"/jobs\": create: Too many open files (EMFILE): 8 queues fill RLIMIT_MSGQUEUE \
         (819200 bytes); raise it: ulimit -q"
    );
    assert_eq!(Error::new(ErrorKind::Other, "try").to_string(), "try");
}

#[test]
fn it_is_one_word_wide_and_can_cross_threads() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Error>();
    assert_eq!(size_of::<Error>(), size_of::<usize>());
    assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
}

#[test]
fn the_number_stays_when_the_kind_is_overridden() {
    let error = Error::os("open", Errno::ACCESS).of_kind(ErrorKind::Mismatch);
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!(error.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
}

#[test]
fn an_io_error_keeps_the_kind_and_the_text() {
    for (errno, kind) in [
        (Errno::NOENT, io::ErrorKind::NotFound),
        (Errno::EXIST, io::ErrorKind::AlreadyExists),
        (Errno::ACCESS, io::ErrorKind::PermissionDenied),
        (Errno::NOSPC, io::ErrorKind::StorageFull),
        (Errno::AGAIN, io::ErrorKind::WouldBlock),
        (Errno::PIPE, io::ErrorKind::BrokenPipe),
        (Errno::NOSYS, io::ErrorKind::Unsupported),
    ] {
        let error = Error::os("do", errno);
        let text = error.to_string();
        let io = io::Error::from(error);
        assert_eq!((io.kind(), io.to_string()), (kind, text));
    }
}

#[test]
fn errors_of_messages_become_io_errors_that_can_be_told_apart() {
    let kinds = [
        (SendError::Full, io::ErrorKind::WouldBlock),
        (SendError::TimedOut, io::ErrorKind::TimedOut),
        (SendError::Interrupted, io::ErrorKind::Interrupted),
        (SendError::Closed, io::ErrorKind::BrokenPipe),
        (SendError::TooBig { limit: 1 }, io::ErrorKind::InvalidInput),
    ];
    for (error, kind) in kinds {
        assert_eq!(io::Error::from(error).kind(), kind);
    }
    let kinds = [
        (RecvError::Empty, io::ErrorKind::WouldBlock),
        (RecvError::TimedOut, io::ErrorKind::TimedOut),
        (RecvError::Interrupted, io::ErrorKind::Interrupted),
        (RecvError::Closed, io::ErrorKind::UnexpectedEof),
        (RecvError::Truncated, io::ErrorKind::InvalidData),
    ];
    for (error, kind) in kinds {
        assert_eq!(io::Error::from(error).kind(), kind);
    }
    let number = Errno::NOTSOCK.raw_os_error();
    assert_eq!(io::Error::from(SendError::Os(number)).raw_os_error(), Some(number));
    assert_eq!(io::Error::from(RecvError::Os(number)).raw_os_error(), Some(number));
}

#[test]
fn a_stop_means_the_same_sending_and_receiving() {
    for stop in [Stop::WouldBlock, Stop::TimedOut, Stop::Interrupted, Stop::Closed, Stop::Os(5)] {
        assert_eq!(RecvError::from(stop).into_stop(), stop);
        assert_eq!(SendError::after(0, stop), SendError::from(stop));
        assert_eq!(SendError::after(7, stop), SendError::Partial { sent: 7, stop });
    }
}

#[test]
fn every_name_of_an_error_number_is_there_once() {
    for (i, (errno, name)) in NAMES.iter().enumerate() {
        assert!(NAMES[..i].iter().all(|(e, n)| e != errno && n != name), "{name}");
        let text = Stop::Os(errno.raw_os_error()).to_string();
        assert!(text.ends_with(&format!("({name})")), "{text}");
    }
    assert!(Stop::Os(4095).to_string().ends_with("(error 4095)"));
}
