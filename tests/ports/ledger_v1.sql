BEGIN TRANSACTION;
CREATE TABLE answers (
	pay_id VARCHAR(300) NOT NULL, 
	status INTEGER NOT NULL, 
	headers TEXT NOT NULL, 
	body BLOB NOT NULL, 
	complete BOOLEAN NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (pay_id)
);
INSERT INTO "answers" VALUES('served',200,'[["content-type", "text/plain"]]',X'746865207265706F7274',1,1780000015);
INSERT INTO "answers" VALUES('delivered',200,'[["content-type", "text/plain"]]',X'746865207265706F7274',1,1780000016);
CREATE TABLE events (
	seq INTEGER NOT NULL, 
	party VARCHAR(16) NOT NULL, 
	pay_id VARCHAR(300) NOT NULL, 
	at BIGINT NOT NULL, 
	event VARCHAR(16) NOT NULL, 
	"after" VARCHAR(16) NOT NULL, 
	stage TEXT NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "events" VALUES(1,'gateway','claimed',1780000000,'begin','claimed','{"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(2,'gateway','served',1780000001,'begin','claimed','{"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(3,'gateway','served',1780000002,'serve','served','{}');
INSERT INTO "events" VALUES(4,'gateway','settling',1780000003,'begin','claimed','{"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(5,'gateway','settling',1780000004,'serve','served','{}');
INSERT INTO "events" VALUES(6,'gateway','settling',1780000005,'submit','settling','{}');
INSERT INTO "events" VALUES(7,'gateway','settled',1780000006,'begin','claimed','{"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(8,'gateway','settled',1780000007,'serve','served','{}');
INSERT INTO "events" VALUES(9,'gateway','settled',1780000008,'submit','settling','{}');
INSERT INTO "events" VALUES(10,'gateway','settled',1780000009,'settle','settled','{"transaction":"0xsettled","block":7}');
INSERT INTO "events" VALUES(11,'gateway','delivered',1780000010,'begin','claimed','{"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(12,'gateway','delivered',1780000011,'serve','served','{}');
INSERT INTO "events" VALUES(13,'gateway','delivered',1780000012,'submit','settling','{}');
INSERT INTO "events" VALUES(14,'gateway','delivered',1780000013,'settle','settled','{"transaction":"0xdelivered","block":7}');
INSERT INTO "events" VALUES(15,'gateway','delivered',1780000014,'deliver','delivered','{"transaction":"0xdelivered"}');
INSERT INTO "events" VALUES(16,'gateway','owed',1780000017,'begin','claimed','{"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(17,'gateway','owed',1780000018,'submit','settling','{}');
INSERT INTO "events" VALUES(18,'gateway','owed',1780000019,'settle','settled','{"transaction":"0xowed","block":8}');
INSERT INTO "events" VALUES(19,'gateway','owed',1780000020,'fail','owed','{"transaction":"0xowed","reason":"RuntimeError"}');
INSERT INTO "events" VALUES(20,'gateway','released',1780000021,'begin','claimed','{"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(21,'gateway','released',1780000022,'release','released','{"reason":"expired"}');
INSERT INTO "events" VALUES(22,'facilitator','settled',1780000023,'begin','intended','{"transaction":"0xsettled","last_valid":1790000000,"sender":"0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199","nonce":3,"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(23,'facilitator','intended',1780000024,'begin','intended','{"transaction":"0xintended","last_valid":1790000000,"sender":"0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199","nonce":4,"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(24,'facilitator','refused',1780000025,'begin','intended','{"transaction":"0xrefused","last_valid":1790000000,"sender":"0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199","nonce":5,"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(25,'facilitator','final',1780000026,'begin','intended','{"transaction":"0xfinal","last_valid":1790000000,"sender":"0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199","nonce":6,"subject":{"network":"eip155:84532","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
INSERT INTO "events" VALUES(26,'facilitator','settled',1780000027,'settle','settled','{"transaction":"0xsettled","block":9}');
INSERT INTO "events" VALUES(27,'facilitator','refused',1780000028,'refuse','refused','{"reason":"reverted","message":"the transaction reverted","transaction":"0xrefused"}');
INSERT INTO "events" VALUES(28,'facilitator','final',1780000029,'settle','settled','{"transaction":"0xfinal","block":9}');
INSERT INTO "events" VALUES(29,'facilitator','final',1780000030,'finalise','final','{"transaction":"0xfinal","block":9}');
INSERT INTO "events" VALUES(30,'facilitator','solana',1780000031,'begin','intended','{"transaction":"5sig","last_valid":312000000,"sender":"FeePayer1111","nonce":null,"subject":{"network":"solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1","asset":"4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU","payer":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8","payee":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","amount":"1500","expires_at":1790000000,"fingerprint":"get /report","record_sha256":"b0463b6bd118c3586bfc448d86089c4458bc3b953910ad2f07559c02dd9f6d4f"}}');
CREATE TABLE nonces (
	network VARCHAR(64) NOT NULL, 
	signer VARCHAR(64) NOT NULL, 
	next BIGINT NOT NULL, 
	PRIMARY KEY (network, signer)
);
INSERT INTO "nonces" VALUES('eip155:84532','0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199',8);
CREATE TABLE payments (
	party VARCHAR(16) NOT NULL, 
	pay_id VARCHAR(300) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	network VARCHAR(64) NOT NULL, 
	asset VARCHAR(64) NOT NULL, 
	payer VARCHAR(64) NOT NULL, 
	payee VARCHAR(64) NOT NULL, 
	amount VARCHAR(78) NOT NULL, 
	expires_at BIGINT NOT NULL, 
	fingerprint VARCHAR(128) NOT NULL, 
	record TEXT NOT NULL, 
	stage TEXT NOT NULL, 
	raw BLOB, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	PRIMARY KEY (party, pay_id)
);
INSERT INTO "payments" VALUES('gateway','claimed','claimed','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{}',NULL,1780000000,1780000000);
INSERT INTO "payments" VALUES('gateway','served','served','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{}',NULL,1780000001,1780000002);
INSERT INTO "payments" VALUES('gateway','settling','settling','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{}',NULL,1780000003,1780000005);
INSERT INTO "payments" VALUES('gateway','settled','settled','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{"transaction":"0xsettled","block":7}',NULL,1780000006,1780000009);
INSERT INTO "payments" VALUES('gateway','delivered','delivered','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{"transaction":"0xdelivered"}',NULL,1780000010,1780000014);
INSERT INTO "payments" VALUES('gateway','owed','owed','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{"transaction":"0xowed","reason":"RuntimeError"}',NULL,1780000017,1780000020);
INSERT INTO "payments" VALUES('gateway','released','released','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{"reason":"expired"}',NULL,1780000021,1780000022);
INSERT INTO "payments" VALUES('facilitator','settled','settled','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{"transaction":"0xsettled","block":9}',X'02F872617720736574746C6564',1780000023,1780000027);
INSERT INTO "payments" VALUES('facilitator','intended','intended','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{"transaction":"0xintended","last_valid":1790000000,"sender":"0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199","nonce":4}',X'02F872617720696E74656E646564',1780000024,1780000024);
INSERT INTO "payments" VALUES('facilitator','refused','refused','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{"reason":"reverted","message":"the transaction reverted","transaction":"0xrefused"}',X'02F87261772072656675736564',1780000025,1780000028);
INSERT INTO "payments" VALUES('facilitator','final','final','eip155:84532','0x036CbD53842c5426634e7929541eC2318f3dCF7e','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{"transaction":"0xfinal","block":9}',X'02F87261772066696E616C',1780000026,1780000030);
INSERT INTO "payments" VALUES('facilitator','solana','intended','solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1','4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU','0x70997970C51812dc3A010C7d01b50e0d17dc79C8','0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC','1500',1790000000,'get /report','{"url":"/report","version":2}','{"transaction":"5sig","last_valid":312000000,"sender":"FeePayer1111","nonce":null}',X'736F6C616E6120726177',1780000031,1780000031);
CREATE TABLE returned_nonces (
	network VARCHAR(64) NOT NULL, 
	signer VARCHAR(64) NOT NULL, 
	nonce BIGINT NOT NULL, 
	PRIMARY KEY (network, signer, nonce)
);
INSERT INTO "returned_nonces" VALUES('eip155:84532','0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199',7);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE INDEX payments_by_state ON payments (party, state, created_at);
CREATE INDEX events_by_payment ON events (party, pay_id);
COMMIT;
