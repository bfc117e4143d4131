//! What may come in and go out: RFC 8212's defaults, the configured policies, and BGP's own rules.

use super::PeerFacts;
use super::audience::Audience;
use super::path::{Path, Refusal};
use crate::api::{Export, Import};
use crate::types::Prefix;
use crate::wire::Community;

/// Why `prefix` may not come in from this peer, if so.
pub(super) fn import(facts: &PeerFacts, prefix: Prefix) -> Option<Refusal> {
    match &facts.import {
        Import::Default => facts.session.ebgp.then_some(Refusal::NoPolicy),
        Import::Accept { except } => {
            except.iter().any(|refused| refused.covers(prefix)).then_some(Refusal::Excepted)
        }
        Import::Reject => Some(Refusal::Policy),
    }
}

/// Whether `path`, if it is the best, may go out to `audience`, its own source apart. `source` is whom it
/// came from, as in the path.
///
/// RFC 1997's well-known communities bind received routes: an originated one that carries NO_EXPORT is
/// told to external peers, for them to obey.
pub(super) fn export(audience: &Audience, path: &Path, source: Option<&PeerFacts>) -> bool {
    let allowed = match audience.export {
        Export::Default => !audience.session.ebgp,
        Export::Originated => path.source.is_none(),
        Export::All => true,
        Export::Reject => false,
    };
    let Some(source) = source else { return allowed };
    let ebgp = audience.session.ebgp;
    allowed
        // RFC 4271, section 9.2: what an internal peer said is not repeated to another, unless it is
        // reflected (RFC 4456, section 6): what a client said to everyone, the rest to clients.
        && (ebgp || source.session.ebgp || source.client || audience.client)
        && !path.attributes.communities.iter().any(|community| match *community {
            Community::NO_ADVERTISE => true,
            Community::NO_EXPORT | Community::NO_EXPORT_SUBCONFED => ebgp,
            _ => false,
        })
}
