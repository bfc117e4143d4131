//! The certificates and keys a kube-apiserver needs: an authority, its own, an administrator's, and the key that
//! signs service account tokens.

use std::net::IpAddr;

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

/// All of them in PEM, by file name.
pub(in crate::apiserver) struct Certificates(Vec<(&'static str, String)>);

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

        let mut admin = CertificateParams::default();
        admin.distinguished_name.push(DnType::CommonName, "manx-testbed-admin");
        // The group that RBAC lets do everything.
        admin.distinguished_name.push(DnType::OrganizationName, "system:masters");
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let admin_key = KeyPair::generate()?;
        let admin = admin.signed_by(&admin_key, &authority)?;

        let service_account = KeyPair::generate()?;
        Ok(Self(vec![
            (AUTHORITY, authority.pem()),
            (SERVER_CERTIFICATE, server.pem()),
            (SERVER_KEY, server_key.serialize_pem()),
            (ADMIN_CERTIFICATE, admin.pem()),
            (ADMIN_KEY, admin_key.serialize_pem()),
            (SERVICE_ACCOUNT_KEY, service_account.serialize_pem()),
            (SERVICE_ACCOUNT_PUBLIC, service_account.public_key_pem()),
        ]))
    }

    /// One of them; empty for a name that is none of ours.
    pub(in crate::apiserver) fn file(&self, name: &str) -> &str {
        self.0.iter().find(|(other, _)| *other == name).map_or("", |(_, content)| content)
    }

    pub(in crate::apiserver) fn files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, content)| (*name, content.as_str()))
    }
}
