//! The four forms and the interrupt, as every mechanism has them.

use sinew::wait::Interrupt;
use sinew_testkit::{Role, Skip, Test, roles, tests};

pub(crate) const TESTS: &[Test] = tests![an_interrupt_stays_until_cleared];
pub(crate) const ROLES: &[Role] = roles![];

fn an_interrupt_stays_until_cleared() -> Result<(), Skip> {
    let stop = Interrupt::new().unwrap();
    assert!(!stop.is_triggered());
    stop.trigger();
    stop.trigger();
    assert!(stop.is_triggered());
    assert!(stop.is_triggered());
    stop.clear();
    assert!(!stop.is_triggered());
    Ok(())
}
