//! The machine that a run is on.

use std::fs;

use crate::cpu;
use crate::report::Host;

pub(crate) fn read() -> Host {
    let uname = rustix::system::uname();
    let info = rustix::system::sysinfo();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let guest = field("flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor"));
    let vendor = || {
        fs::read_to_string("/sys/class/dmi/id/sys_vendor")
            .map(|vendor| vendor.trim().to_owned())
            .ok()
            .filter(|vendor| !vendor.is_empty())
            .unwrap_or_else(|| "unknown".to_owned())
    };
    Host {
        kernel: uname.release().to_string_lossy().into_owned(),
        arch: uname.machine().to_string_lossy().into_owned(),
        cpu: field("model name").unwrap_or_else(|| "unknown".to_owned()),
        cpus: cpu::allowed().len(),
        memory_bytes: (info.totalram as u64).saturating_mul(u64::from(info.mem_unit.max(1))),
        hypervisor: guest.then(vendor),
        sinew: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
