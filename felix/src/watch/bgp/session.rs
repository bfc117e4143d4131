//! What configurations and neighbours alike may say of a session.

use manx_bgp::api::{Bfd, GracefulRestart};

use super::field::within;
use crate::crd;
use crate::model::{Bad, SecretKey};

impl From<&crd::SecretKey> for SecretKey {
    fn from(written: &crd::SecretKey) -> Self {
        Self { name: written.name.clone(), key: written.key.clone() }
    }
}

/// Timers that fit each other: with the hold time that is said, else with `unsaid`; where that is another's to say, it is
/// judged there.
pub fn timers(spec: &crd::Timers, unsaid: Option<u16>) -> Result<crd::Timers, Bad> {
    if let Some(seconds @ (1 | 2)) = spec.hold_time_seconds {
        let message =
            format!("spec.holdTimeSeconds: {seconds} is neither 0 nor 3–65535 (RFC 4271, section 4.2)");
        return Err(Bad::new("InvalidHoldTime", message));
    }
    if let Some(hold_time) = spec.hold_time_seconds.or(unsaid) {
        keepalive(spec.keepalive_seconds, hold_time)?;
        send_hold_time(spec.send_hold_time_seconds, hold_time)?;
    }
    for (field, seconds) in [
        ("spec.connectRetrySeconds", spec.connect_retry_seconds),
        ("spec.sendHoldTimeSeconds", spec.send_hold_time_seconds),
    ] {
        seconds.map(|seconds| within(field, seconds, 1..=u16::MAX)).transpose()?;
    }
    Ok(*spec)
}

/// Whether KEEPALIVEs so many seconds apart keep a session with this hold time.
///
/// # Errors
/// They do not.
pub fn keepalive(seconds: Option<u16>, hold_time: u16) -> Result<(), Bad> {
    match seconds {
        Some(seconds) if seconds > hold_time / 3 || (seconds == 0 && hold_time > 0) => {
            let message = format!(
                "spec.keepaliveSeconds: {seconds} is not 1 to a third of the hold time, which is {hold_time} (0 goes with 0)"
            );
            Err(Bad::new("InvalidKeepalive", message))
        }
        _ => Ok(()),
    }
}

/// Whether this send hold time goes with this hold time (RFC 9687).
///
/// # Errors
/// It is not more.
pub fn send_hold_time(seconds: Option<u16>, hold_time: u16) -> Result<(), Bad> {
    match seconds {
        Some(seconds) if seconds <= hold_time => {
            let message = format!(
                "spec.sendHoldTimeSeconds: {seconds} is not more than the hold time, which is {hold_time} (RFC 9687)"
            );
            Err(Bad::new("InvalidSendHoldTime", message))
        }
        _ => Ok(()),
    }
}

pub fn bfd(spec: &crd::Bfd) -> Result<Bfd, Bad> {
    Ok(Bfd {
        min_rx_ms: within("spec.bfd.minRxMilliseconds", spec.min_rx_milliseconds, 10..=60_000)?,
        min_tx_ms: within("spec.bfd.minTxMilliseconds", spec.min_tx_milliseconds, 10..=60_000)?,
        multiplier: within("spec.bfd.multiplier", spec.multiplier, 2..=50)?,
    })
}

/// Learned routes stay in the kernel while the speaker is away, so neighbours may keep sending.
pub fn graceful_restart(spec: &crd::GracefulRestart) -> Result<GracefulRestart, Bad> {
    const LONGEST: u32 = (1 << 24) - 1;
    let field = |name: &str| format!("spec.gracefulRestart.{name}");
    let limit = spec.long_lived_limit_seconds;
    Ok(GracefulRestart {
        restart_time: within(&field("restartTimeSeconds"), spec.restart_time_seconds, 0..=4095)?,
        preserve_forwarding: true,
        long_lived_stale_time: within(
            &field("longLivedStaleTimeSeconds"),
            spec.long_lived_stale_time_seconds,
            0..=LONGEST,
        )?,
        long_lived_limit: limit
            .map(|limit| within(&field("longLivedLimitSeconds"), limit, 0..=LONGEST))
            .transpose()?,
    })
}
