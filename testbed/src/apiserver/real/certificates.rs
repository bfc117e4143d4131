//! The certificates and keys a kube-apiserver needs: an authority, its own, an administrator's, and the key that
//! signs service account tokens.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

pub(in crate::apiserver) const AUTHORITY: &str = "ca.crt";
pub(in crate::apiserver) const SERVER_CERTIFICATE: &str = "apiserver.crt";
pub(in crate::apiserver) const SERVER_KEY: &str = "apiserver.key";
pub(in crate::apiserver) const ADMIN_CERTIFICATE: &str = "admin.crt";
pub(in crate::apiserver) const ADMIN_KEY: &str = "admin.key";
pub(in crate::apiserver) const SERVICE_ACCOUNT_KEY: &str = "sa.key";
pub(in crate::apiserver) const SERVICE_ACCOUNT_PUBLIC: &str = "sa.pub";

/// All of them in PEM, by file name, and the authority that makes more.
pub(in crate::apiserver) struct Certificates {
    files: Vec<(&'static str, String)>,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// What a client shows to say who it is.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
    /// The certificate as it is shown.
    pub(in crate::apiserver) der: Vec<u8>,
}

impl Certificates {
    /// Makes a set for a server that listens on `ip`.
    pub(in crate::apiserver) fn make(ip: IpAddr) -> Result<Self, rcgen::Error> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "manx-testbed-ca");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

        let mut names: Vec<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
                .map(str::to_owned)
                .into();
        // Its own address, loopback, and its service's.
        names.extend([ip.to_string(), "127.0.0.1".into(), "::1".into(), "10.96.0.1".into()]);
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server_key = KeyPair::generate()?;
        let server = server.signed_by(&server_key, &authority)?;

        let admin = client(&authority, None)?;

        let service_account = KeyPair::generate()?;
        let files = vec![
            (AUTHORITY, authority.pem()),
            (SERVER_CERTIFICATE, server.pem()),
            (SERVER_KEY, server_key.serialize_pem()),
            (ADMIN_CERTIFICATE, admin.certificate),
            (ADMIN_KEY, admin.key),
            (SERVICE_ACCOUNT_KEY, service_account.serialize_pem()),
            (SERVICE_ACCOUNT_PUBLIC, service_account.public_key_pem()),
        ];
        Ok(Self { files, authority })
    }

    /// One more administrator's, good for as long as this.
    pub(in crate::apiserver) fn client(&self, lasts: Duration) -> Result<ClientCertificate, rcgen::Error> {
        client(&self.authority, Some(lasts))
    }

    /// One of them; empty for a name that is none of ours.
    pub(in crate::apiserver) fn file(&self, name: &str) -> &str {
        self.files.iter().find(|(other, _)| *other == name).map_or("", |(_, content)| content)
    }

    pub(in crate::apiserver) fn files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.files.iter().map(|(name, content)| (*name, content.as_str()))
    }
}

/// An administrator's, good for as long as this, or for good.
fn client(
    authority: &CertifiedIssuer<'static, KeyPair>,
    lasts: Option<Duration>,
) -> Result<ClientCertificate, rcgen::Error> {
    let mut client = CertificateParams::default();
    client.distinguished_name.push(DnType::CommonName, "manx-testbed-admin");
    // The group that RBAC lets do everything.
    client.distinguished_name.push(DnType::OrganizationName, "system:masters");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if let Some(lasts) = lasts {
        client.not_after = (SystemTime::now() + lasts).into();
    }
    let key = KeyPair::generate()?;
    let client = client.signed_by(&key, authority)?;
    Ok(ClientCertificate { certificate: client.pem(), key: key.serialize_pem(), der: client.der().to_vec() })
}
