use sinew_testkit::{Role, Test, roles, tests};

pub(crate) const TESTS: &[Test] = tests![];
pub(crate) const ROLES: &[Role] = roles![];
