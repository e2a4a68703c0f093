//! Many to one: the far sides send, the near one counts.

use std::time::Instant;

use crate::Result;
use crate::drive;
use crate::ends::Ends;
use crate::job::{Found, Job, Side};
use crate::link::Link;

/// What is sent.
pub(crate) const SIZE: usize = 64;
/// As many come before the time is taken.
const WARM: u64 = 20_000;

pub(crate) fn run<E: Ends<SIZE>>(job: &Job, links: &[Link]) -> Result<Option<Found>> {
    match job.side {
        Side::Near => {
            let mut ends = E::near(job, links)?;
            links.iter().try_for_each(Link::meet)?;
            let found = count(job, &mut ends)?;
            links.iter().try_for_each(Link::meet)?;
            Ok(Some(found))
        }
        Side::Far => {
            let mut ends = E::far(job, &links[0])?;
            links[0].meet()?;
            drive::pour(job, &mut ends)?;
            // What was sent may be gone with its sender.
            links[0].meet()?;
            Ok(None)
        }
    }
}

fn count<E: Ends<SIZE>>(job: &Job, ends: &mut E) -> Result<Found> {
    let mut room = [0; SIZE];
    let (mut count, mut said, mut ended) = (0_u64, 0_u64, 0);
    let (mut begin, mut first_end) = (None, None);
    while ended < job.far {
        ends.recv(&mut room)?;
        match drive::last_count(&room) {
            Some(of) => {
                // From here on not all of them send.
                first_end.get_or_insert_with(|| (Instant::now(), count));
                said += of;
                ended += 1;
            }
            None => {
                count += 1;
                if count == WARM {
                    begin = Some(Instant::now());
                }
            }
        }
    }
    if count != said {
        return Err(format!("{count} messages came of {said}").into());
    }
    let begin = begin.ok_or("too few messages to measure")?;
    let (end, messages) = first_end.ok_or("nobody ended")?;
    let messages = messages.checked_sub(WARM).ok_or("too few messages to measure")?;
    let elapsed_ns = end.duration_since(begin).as_nanos() as u64;
    Ok(Found { messages, elapsed_ns, ..Found::default() })
}
