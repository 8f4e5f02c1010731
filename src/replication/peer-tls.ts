// What both ends of a connection between brokers need for TLS. It is always mutual: a broker that shows no certificate of the authority is no peer.
import type { SecureContextOptions, SecureVersion } from 'node:tls';

/** PEM: the certificate and key of this broker, and the authority that signs those of all brokers of the cluster. */
export type PeerTls = Required<Pick<SecureContextOptions, 'cert' | 'key' | 'ca'>>;

export const PEER_TLS_VERSION_MIN: SecureVersion = 'TLSv1.2';
