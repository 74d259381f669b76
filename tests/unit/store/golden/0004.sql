BEGIN TRANSACTION;
CREATE TABLE agent_uses (
	manager_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	PRIMARY KEY (manager_id, agent_id)
);
INSERT INTO "agent_uses" VALUES('m1','alice');
CREATE TABLE agents (
	agent_id TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	deleted_at BIGINT, 
	last_active_at BIGINT, 
	status TEXT NOT NULL, 
	reason TEXT, 
	generation INTEGER NOT NULL, 
	instance_id TEXT, 
	handle TEXT, 
	spec_hash TEXT, 
	endpoint TEXT, 
	started_at BIGINT, 
	changed_at BIGINT, settings_hash TEXT, limits TEXT, due_at BIGINT, opencode_version TEXT, gave_up_at BIGINT, forgiven_at BIGINT, 
	PRIMARY KEY (agent_id)
);
INSERT INTO "agents" VALUES('alice','{"agent_id":"alice","model":"fake/model","system_prompt":"Be brief.","opencode":{"provider":{"fake":{"npm":"@ai-sdk/openai-compatible"}}},"resources":{"memory_mb":1024},"life":{"max_run_time":300.0},"labels":{"team":"a"}}',1767323045678901,1767323045678901,NULL,1767323045678901,'ready',NULL,1,'i1','c1','h','http://127.0.0.1:1',1767323045678901,1767323045678901,'s','{"memory_bytes":1073741824,"cpus":2.0,"pids":1024}',0,NULL,NULL,NULL);
INSERT INTO "agents" VALUES('gone','{"agent_id":"gone","model":"fake/model"}',1767323045678901,1767323045678901,1767323045678901,NULL,'pending',NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE counters (
	name TEXT NOT NULL, 
	value BIGINT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "counters" VALUES('started',1);
CREATE TABLE decisions (
	decision_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	agent_id TEXT NOT NULL, 
	at BIGINT NOT NULL, 
	kind TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	evidence TEXT NOT NULL, 
	manager_id TEXT NOT NULL
);
INSERT INTO "decisions" VALUES(1,'alice',1767323045678901,'started','a run asked for it','{"generation": 1}','m1');
CREATE TABLE holds (
	agent_id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	until BIGINT NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (agent_id, owner), 
	FOREIGN KEY(agent_id) REFERENCES agents (agent_id) ON DELETE CASCADE
);
INSERT INTO "holds" VALUES('alice','bob',1767323045678901,1767323045678901);
CREATE TABLE install (
	one INTEGER NOT NULL CONSTRAINT install_has_one_row CHECK (one = 1), 
	install_id TEXT NOT NULL, 
	PRIMARY KEY (one)
);
INSERT INTO "install" VALUES(1,'golden000001');
CREATE TABLE leases (
	agent_id TEXT NOT NULL, 
	manager_id TEXT NOT NULL, 
	purpose TEXT NOT NULL, 
	acquired_at BIGINT NOT NULL, ticket INTEGER, waits_at BIGINT, 
	PRIMARY KEY (agent_id)
);
INSERT INTO "leases" VALUES('alice','m1','stop',1767323045678901,NULL,NULL);
CREATE TABLE managers (
	manager_id TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	registered_at BIGINT NOT NULL, role TEXT DEFAULT 'manager' NOT NULL, 
	PRIMARY KEY (manager_id)
);
INSERT INTO "managers" VALUES('m1',42,1767323045678901,'manager');
CREATE TABLE pending_answers (
	request_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	instance_id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	asked TEXT NOT NULL, 
	asked_at BIGINT NOT NULL, 
	deadline_at BIGINT NOT NULL, 
	PRIMARY KEY (request_id), 
	FOREIGN KEY(agent_id) REFERENCES agents (agent_id) ON DELETE CASCADE
);
INSERT INTO "pending_answers" VALUES('per1','alice','i1','r1','permission','{}',1767323045678901,1767323045678901);
CREATE TABLE runs (
	place INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	run_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	task_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	idempotency_key TEXT, 
	model TEXT, 
	created_at BIGINT NOT NULL, 
	session_id TEXT, 
	instance_id TEXT, 
	after_message_id TEXT, 
	sent_at BIGINT, 
	ended_at BIGINT, 
	result TEXT, on_interrupt TEXT DEFAULT 'fail' NOT NULL, resumes INTEGER DEFAULT '0' NOT NULL, resumed_after TEXT, 
	CONSTRAINT runs_by_id UNIQUE (run_id), 
	CONSTRAINT runs_by_key UNIQUE (agent_id, idempotency_key), 
	FOREIGN KEY(agent_id) REFERENCES agents (agent_id) ON DELETE CASCADE
);
INSERT INTO "runs" VALUES(1,'run-1','alice','main','ended','m1','print','key','fake/model',1767323045678901,'ses','i1','msg',1767323045678901,1767323045678901,'{"run_id":"run-1","agent_id":"alice","task_id":"main","outcome":"failed","started_at":"2026-01-02T03:04:05.678901Z","duration":"PT2.5S","session_id":"ses","output":"done","error":{"code":"provider_error","message":"429","retryable":true},"usage":{"input_tokens":7,"output_tokens":8,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0,"cost":0.5},"model":"fake/model"}','fail',0,NULL);
INSERT INTO "runs" VALUES(2,'run-2','alice','main','queued','m1','print',NULL,NULL,1767323045678901,NULL,NULL,NULL,NULL,NULL,NULL,'fail',0,NULL);
CREATE TABLE sessions (
	agent_id TEXT NOT NULL, 
	task_id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	PRIMARY KEY (agent_id, task_id), 
	FOREIGN KEY(agent_id) REFERENCES agents (agent_id) ON DELETE CASCADE
);
INSERT INTO "sessions" VALUES('alice','main','ses');
CREATE TABLE task_messages (
	task_id TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	role TEXT NOT NULL, 
	content TEXT NOT NULL, 
	run_id TEXT, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (task_id, position), 
	FOREIGN KEY(task_id) REFERENCES tasks (task_id) ON DELETE CASCADE
);
INSERT INTO "task_messages" VALUES('t1',0,'user','hello',NULL,1767323045678901);
CREATE TABLE tasks (
	task_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	turns INTEGER NOT NULL, 
	owner TEXT, 
	run_id TEXT, 
	reason TEXT, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	PRIMARY KEY (task_id)
);
INSERT INTO "tasks" VALUES('t1','alice','waiting',1,NULL,NULL,NULL,1767323045678901,1767323045678901);
CREATE TABLE wishes (
	wish_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	agent_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	task_id TEXT, 
	upto_place INTEGER NOT NULL, 
	created_at BIGINT NOT NULL
);
INSERT INTO "wishes" VALUES(1,'alice','abort','main',2,1767323045678901);
CREATE INDEX agents_by_status ON agents (status);
CREATE INDEX wishes_by_agent ON wishes (agent_id);
CREATE INDEX runs_by_agent ON runs (agent_id, place);
CREATE UNIQUE INDEX runs_unfinished ON runs (agent_id, place) WHERE state != 'ended';
CREATE INDEX agents_by_due_at ON agents (due_at);
CREATE INDEX decisions_by_agent ON decisions (agent_id, decision_id);
CREATE INDEX pending_answers_by_agent ON pending_answers (agent_id);
CREATE INDEX tasks_by_agent ON tasks (agent_id, created_at);
CREATE INDEX tasks_by_state ON tasks (state, created_at);
CREATE INDEX tasks_by_owner ON tasks (owner);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('runs',2);
INSERT INTO "sqlite_sequence" VALUES('wishes',1);
INSERT INTO "sqlite_sequence" VALUES('decisions',1);
COMMIT;
