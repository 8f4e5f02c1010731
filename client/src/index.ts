// The package's public surface: everything an application may import.
export {
  type Consumer,
  type ConsumerOptions,
  createConsumer,
  type SubscribeOptions,
} from './consumer.js';
export {
  CLIENT_ERRORS,
  type ClientErrorCode,
  GomqClientError,
  type GomqClientErrorOptions,
} from './errors.js';
export type {
  Brokers,
  BrokersByEtcd,
  BrokersByHttp,
  ClientEvent,
  ConnectionOptions,
  Payload,
  Qos,
  TlsOptions,
  WebSocketOptions,
  Will,
} from './options.js';
export {
  type CloseOptions,
  createProducer,
  type OutgoingMessage,
  type Producer,
  type ProducerOptions,
  type PublishOptions,
  type PublishReceipt,
} from './producer.js';
export type { MessageProperties } from './properties.js';
export type { ReceivedMessage, Subscription } from './subscription.js';
