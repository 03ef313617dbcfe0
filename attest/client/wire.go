package client

import "cloister.dev/cloister/evidence"

// WireSevSnpVM is the body of POST /attest/SevSnpVm.
type WireSevSnpVM struct {
	Report       string    `json:"report"` // base64url of WireReport as JSON
	RuntimeData  *WireData `json:"runtimeData,omitempty"`
	InitTimeData *WireData `json:"initTimeData,omitempty"`
	Nonce        string    `json:"nonce,omitempty"`
}

// WireTdxVM is the body of POST /attest/TdxVm.
type WireTdxVM struct {
	Quote        string    `json:"quote"` // base64url
	RuntimeData  *WireData `json:"runtimeData,omitempty"`
	InitTimeData *WireData `json:"initTimeData,omitempty"`
	Nonce        string    `json:"nonce,omitempty"`
}

// WireReport is the JSON inside "report", and inside an AzureGuest request's Proof.
type WireReport struct {
	SnpReport     string `json:"SnpReport"`     // base64url
	VcekCertChain string `json:"VcekCertChain"` // base64url of PEM
}

// WireData is runtime or init-time data.
type WireData struct {
	Data     string `json:"data"`     // base64url
	DataType string `json:"dataType"` // "JSON" or "Binary"
}

// ChallengeHeader names the nonce of POST /cloister/challenges that a token is to be fresh by.
const ChallengeHeader = "x-cloister-challenge"

// WireChallenge is the answer of POST /cloister/challenges.
type WireChallenge struct {
	Nonce   string `json:"nonce"`   // base64url, 32 bytes
	Expires string `json:"expires"` // RFC 3339
}

// WireToken is an answer that carries a token.
type WireToken struct {
	Token string `json:"token"`
}

// WireAKRequest is the body of POST /cloister/akcertificate. Bytes are base64 with padding.
type WireAKRequest struct {
	HCLReport    []byte `json:"hclReport"`
	Chain        string `json:"chainPEM"`
	InitTimeData []byte `json:"initTimeData,omitempty"`
	EKPublic     []byte `json:"ekPublic"`
	AKPublic     []byte `json:"akPublic"`
}

// WireAKReply is its answer: the certificate and the CA that signed it, in DER.
type WireAKReply struct {
	Certificate []byte `json:"certificate"`
	CA          []byte `json:"ca"`
}

// WireGuest is the JSON inside AttestationInfo of POST /attest/AzureGuest.
type WireGuest struct {
	Protocol       string            `json:"AttestationProtocolVersion"` // "2.0"
	OSType         string            `json:"OSType"`                     // this and the next two: base64 of the text
	OSDistro       string            `json:"OSDistro"`
	OSBuild        string            `json:"OSBuild"`
	OSVersionMajor int               `json:"OSVersionMajor"`
	OSVersionMinor int               `json:"OSVersionMinor"`
	TcgLogs        []byte            `json:"TcgLogs"`
	ClientPayload  map[string][]byte `json:"ClientPayload,omitempty"`
	TpmInfo        WireTPM           `json:"TpmInfo"`
	IsolationInfo  WireIsolation     `json:"IsolationInfo"`
}

// WireTPM is TpmInfo. Bytes are base64 with padding.
type WireTPM struct {
	AikCert           []byte    `json:"AikCert"`
	AikPub            []byte    `json:"AikPub"` // TPM2B_PUBLIC
	PcrQuote          []byte    `json:"PcrQuote"`
	PcrSignature      []byte    `json:"PcrSignature"`
	EncKeyPub         []byte    `json:"EncKeyPub,omitempty"` // TPM2B_PUBLIC
	EncKeyCertifyInfo []byte    `json:"EncKeyCertifyInfo,omitempty"`
	EncKeySignature   []byte    `json:"EncKeyCertifyInfoSignature,omitempty"`
	PcrSet            []int     `json:"PcrSet"`
	PCRs              []WirePCR `json:"PCRs"`
}

// WirePCR is one register's value.
type WirePCR struct {
	Index  int    `json:"Index"`
	Digest []byte `json:"Digest"` // 32 bytes
}

// WireIsolation is IsolationInfo.
type WireIsolation struct {
	Type     string       `json:"Type"` // "SevSnp" or "Tdx"
	Evidence WireEvidence `json:"Evidence"`
}

// WireEvidence is the hardware evidence of an AzureGuest request.
type WireEvidence struct {
	Proof       []byte `json:"Proof"` // for SevSnp: WireReport as JSON; for Tdx: the quote
	RunTimeData []byte `json:"RunTimeData"`
	// InitTimeData is ours: the init data whose digest is HOST_DATA or MRCONFIGID.
	InitTimeData []byte `json:"InitTimeData,omitempty"`
}

// WireEncrypted is the JSON inside the token of an encrypted AzureGuest answer.
type WireEncrypted struct {
	Jwt                []byte         `json:"Jwt"`               // AES-256-GCM ciphertext without its tag
	EncryptedInnerKey  []byte         `json:"EncryptedInnerKey"` // RSAES-PKCS1-v1_5
	EncryptionParams   WireEncryption `json:"EncryptionParams"`
	AuthenticationData []byte         `json:"AuthenticationData"` // the tag, 16 bytes
}

// WireEncryption names the cipher of an encrypted answer.
type WireEncryption struct {
	Iv            []byte `json:"Iv"` // 12 bytes
	BlockMode     string `json:"BlockMode"`
	BlockPadding  string `json:"BlockPadding"`
	Cipher        string `json:"Cipher"`
	KeySizeInBits int    `json:"KeySizeInBits"`
}

// TransportAAD is the additional data of the encryption of an AzureGuest answer.
const TransportAAD = "Transport Key"

// WireError is the body of every refusal.
type WireError struct {
	Error struct {
		Code       string            `json:"code"`
		Message    string            `json:"message"`
		InnerError *evidence.Refusal `json:"innererror,omitempty"` // ours
	} `json:"error"`
}
