package uki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"

	"cloister.dev/cloister/evidence"
)

// Object identifiers of PKCS#7 (RFC 2315) and of Authenticode.
var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidPEImageData   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

// peImageData is SpcPeImageData with no flags and an empty file link, as all signers write it.
var peImageData = []byte{0x30, 0x09, 0x03, 0x01, 0x00, 0xa0, 0x04, 0xa2, 0x02, 0x80, 0x00}

var asn1NULL = asn1.RawValue{Tag: asn1.TagNull}

type algorithm struct {
	Algorithm  asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

type digestInfo struct {
	Algorithm algorithm
	Digest    []byte
}

type attributeType struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type indirectData struct {
	Data   attributeType
	Digest digestInfo
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue // [0] EXPLICIT
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values asn1.RawValue // SET OF
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial *big.Int
}

type signerInfo struct {
	Version            int
	Issuer             issuerAndSerial
	DigestAlgorithm    algorithm
	Attributes         asn1.RawValue // [0] IMPLICIT SET OF
	SignatureAlgorithm algorithm
	Signature          []byte
	UnsignedAttributes asn1.RawValue `asn1:"optional,tag:1"`
}

type signedData struct {
	Version          int
	DigestAlgorithms []algorithm `asn1:"set"`
	Content          contentInfo
	Certificates     asn1.RawValue // [0] IMPLICIT SET OF
	Signers          []signerInfo  `asn1:"set"`
}

const (
	winCertRevision2  = 0x0200
	winCertPKCS7      = 0x0002
	winCertHeaderSize = 8
)

// Sign gives the file with one Authenticode signature (RSA PKCS #1 v1.5, SHA-256). There is no time in it,
// so the same input and key give the same bytes.
func Sign(pe []byte, key crypto.Signer, cert *x509.Certificate) ([]byte, error) {
	if _, ok := key.Public().(*rsa.PublicKey); !ok {
		return nil, fmt.Errorf("signing with a %T: only RSA keys are known to every firmware", key.Public())
	}
	l, err := parseLayout(pe)
	if err != nil {
		return nil, err
	}
	if _, table, err := l.signatures(pe); err != nil {
		return nil, err
	} else if table != nil {
		return nil, malformed("signatures", "a signed file", "an unsigned one")
	}
	digest, err := Digest(pe)
	if err != nil {
		return nil, err
	}
	p7, err := signPKCS7(digest, key, cert)
	if err != nil {
		return nil, fmt.Errorf("making the signature: %w", err)
	}
	out := pad(append([]byte(nil), pe...), 8)
	off := len(out)
	var header [winCertHeaderSize]byte
	length := int(align(uint64(winCertHeaderSize+len(p7)), 8))
	binary.LittleEndian.PutUint32(header[0:], uint32(length))
	binary.LittleEndian.PutUint16(header[4:], winCertRevision2)
	binary.LittleEndian.PutUint16(header[6:], winCertPKCS7)
	out = pad(append(append(out, header[:]...), p7...), 8)
	binary.LittleEndian.PutUint32(out[l.opt+optSecurityEntry:], uint32(off))
	binary.LittleEndian.PutUint32(out[l.opt+optSecurityEntry+4:], uint32(length))
	return out, nil
}

func signPKCS7(digest [32]byte, key crypto.Signer, cert *x509.Certificate) ([]byte, error) {
	sha := algorithm{oidSHA256, asn1NULL}
	content, err := asn1.Marshal(indirectData{
		Data:   attributeType{oidPEImageData, asn1.RawValue{FullBytes: peImageData}},
		Digest: digestInfo{sha, digest[:]},
	})
	if err != nil {
		return nil, err
	}
	inner, err := sequenceContent(content)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(inner)
	contentType, err := asn1.Marshal(oidIndirectData)
	if err != nil {
		return nil, err
	}
	message, err := asn1.Marshal(sum[:])
	if err != nil {
		return nil, err
	}
	set := func(b []byte) asn1.RawValue {
		return asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: b}
	}
	a1, err := asn1.Marshal(attribute{oidContentType, set(contentType)})
	if err != nil {
		return nil, err
	}
	a2, err := asn1.Marshal(attribute{oidMessageDigest, set(message)})
	if err != nil {
		return nil, err
	}
	attributes := append(a1, a2...)
	signed, err := asn1.Marshal(set(attributes))
	if err != nil {
		return nil, err
	}
	toSign := sha256.Sum256(signed)
	signature, err := key.Sign(rand.Reader, toSign[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	context0 := func(b []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: b}
	}
	sd, err := asn1.Marshal(signedData{
		Version:          1,
		DigestAlgorithms: []algorithm{sha},
		Content:          contentInfo{oidIndirectData, context0(content)},
		Certificates:     context0(cert.Raw),
		Signers: []signerInfo{{
			Version:            1,
			Issuer:             issuerAndSerial{asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber},
			DigestAlgorithm:    sha,
			Attributes:         context0(attributes),
			SignatureAlgorithm: algorithm{oidRSA, asn1NULL},
			Signature:          signature,
		}},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{oidSignedData, context0(sd)})
}

// sequenceContent strips the outer tag and length: the message digest of Authenticode leaves them out.
func sequenceContent(der []byte) ([]byte, error) {
	var v asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) > 0 || v.Tag != asn1.TagSequence {
		return nil, malformed("signature", "no sequence", "a DER sequence")
	}
	return v.Bytes, nil
}

// Verify accepts a file with exactly one signature, made with the key of cert over this very file.
// It looks at no dates: firmware has no clock to trust either.
func Verify(pe []byte, cert *x509.Certificate) error {
	l, err := parseLayout(pe)
	if err != nil {
		return err
	}
	_, table, err := l.signatures(pe)
	if err != nil {
		return err
	}
	if table == nil {
		return evidence.Refuse(evidence.CodeChain, "uki/signature", "none", "a signature by the installation's db key")
	}
	if len(table) < winCertHeaderSize {
		return malformed("signatures", fmt.Sprintf("%d bytes", len(table)), "a WIN_CERTIFICATE")
	}
	n := binary.LittleEndian.Uint32(table)
	if align(uint64(n), 8) != uint64(len(table)) || binary.LittleEndian.Uint16(table[4:]) != winCertRevision2 || binary.LittleEndian.Uint16(table[6:]) != winCertPKCS7 {
		return malformed("signatures", fmt.Sprintf("header %x of a table of %d bytes", table[:8], len(table)), "exactly one PKCS#7 signature")
	}
	digest, err := Digest(pe)
	if err != nil {
		return err
	}
	return verifyPKCS7(table[winCertHeaderSize:], digest, cert)
}

func verifyPKCS7(p7 []byte, digest [32]byte, cert *x509.Certificate) error {
	var outer contentInfo
	rest, err := asn1.Unmarshal(p7, &outer)
	if err != nil {
		return malformed("signature", err.Error(), "a PKCS#7 content info")
	}
	if len(rest) >= 8 || len(bytes.Trim(rest, "\x00")) > 0 {
		return malformed("signature", fmt.Sprintf("%d bytes after it", len(rest)), "padding to 8 zero bytes")
	}
	if !outer.Type.Equal(oidSignedData) {
		return evidence.Refuse(evidence.CodeUnsupported, "uki/signature", outer.Type.String(), "signed data")
	}
	var sd signedData
	if rest, err := asn1.Unmarshal(outer.Content.Bytes, &sd); err != nil || len(rest) > 0 {
		return malformed("signature", "signed data that does not parse", "PKCS#7 signed data")
	}
	if !sd.Content.Type.Equal(oidIndirectData) {
		return evidence.Refuse(evidence.CodeUnsupported, "uki/signature", sd.Content.Type.String(), "Authenticode content")
	}
	var content indirectData
	if rest, err := asn1.Unmarshal(sd.Content.Content.Bytes, &content); err != nil || len(rest) > 0 {
		return malformed("signature", "content that does not parse", "SpcIndirectDataContent")
	}
	if !content.Digest.Algorithm.Algorithm.Equal(oidSHA256) || !bytes.Equal(content.Digest.Digest, digest[:]) {
		return evidence.Refuse(evidence.CodeBinding, "uki/digest", fmt.Sprintf("%x", digest), fmt.Sprintf("the signed %x", content.Digest.Digest))
	}
	if len(sd.Signers) != 1 {
		return evidence.Refuse(evidence.CodeUnsupported, "uki/signature", fmt.Sprintf("%d signers", len(sd.Signers)), "1")
	}
	s := sd.Signers[0]
	if !bytes.Equal(s.Issuer.Issuer.FullBytes, cert.RawIssuer) || s.Issuer.Serial.Cmp(cert.SerialNumber) != 0 {
		return evidence.Refuse(evidence.CodeChain, "uki/signer", "another certificate", "the installation's db certificate")
	}
	if !s.DigestAlgorithm.Algorithm.Equal(oidSHA256) || !s.SignatureAlgorithm.Algorithm.Equal(oidRSA) {
		return evidence.Refuse(evidence.CodeUnsupported, "uki/signature", s.SignatureAlgorithm.Algorithm.String(), "RSA with SHA-256")
	}
	inner, err := sequenceContent(sd.Content.Content.Bytes)
	if err != nil {
		return err
	}
	want := sha256.Sum256(inner)
	got, err := messageDigest(s.Attributes)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want[:]) {
		return evidence.Refuse(evidence.CodeBinding, "uki/messageDigest", fmt.Sprintf("%x", got), fmt.Sprintf("%x", want))
	}
	signed, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: s.Attributes.Bytes})
	if err != nil {
		return err
	}
	if err := cert.CheckSignature(x509.SHA256WithRSA, signed, s.Signature); err != nil {
		return evidence.Refuse(evidence.CodeChain, "uki/signature", err.Error(), "a signature by the installation's db key")
	}
	return nil
}

// messageDigest finds the two attributes that must be there, each once.
func messageDigest(attributes asn1.RawValue) ([]byte, error) {
	if attributes.Class != asn1.ClassContextSpecific || attributes.Tag != 0 {
		return nil, malformed("signature", "no signed attributes", "signed attributes")
	}
	var digest []byte
	var typed bool
	for rest := attributes.Bytes; len(rest) > 0; {
		var a attribute
		var err error
		if rest, err = asn1.Unmarshal(rest, &a); err != nil {
			return nil, malformed("signature", err.Error(), "signed attributes")
		}
		switch {
		case a.Type.Equal(oidContentType):
			var t asn1.ObjectIdentifier
			if tail, err := asn1.Unmarshal(a.Values.Bytes, &t); err != nil || len(tail) > 0 || !t.Equal(oidIndirectData) || typed {
				return nil, malformed("signature/contentType", t.String(), oidIndirectData.String()+", once")
			}
			typed = true
		case a.Type.Equal(oidMessageDigest):
			if digest != nil {
				return nil, malformed("signature/messageDigest", "a second one", "one")
			}
			if tail, err := asn1.Unmarshal(a.Values.Bytes, &digest); err != nil || len(tail) > 0 || len(digest) != sha256.Size {
				return nil, malformed("signature/messageDigest", "another value", "32 bytes")
			}
		}
	}
	if digest == nil || !typed {
		return nil, malformed("signature", "no content type or message digest", "both")
	}
	return digest, nil
}
