// Command old-client calls a KMS v2 provider as the API servers of Kubernetes 1.31 and older do.
//
// They leave it to gRPC to make the HTTP/2 :authority of a call, and it makes it from the path of
// the socket, percent-encoded. Newer ones send "localhost". The rounds share one connection, so
// that all but the first send the header as an index into HPACK's dynamic table.
package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kms "k8s.io/kms/apis/v2"
)

const (
	rounds  = 3
	timeout = 10 * time.Second
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: old-client SOCKET")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(socket string) error {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	// No authority is set here, which is the point of this program.
	connection, err := grpc.NewClient(
		"passthrough:///"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithContextDialer(dial),
	)
	if err != nil {
		return err
	}
	defer connection.Close()

	client := kms.NewKeyManagementServiceClient(connection)
	for number := 1; number <= rounds; number++ {
		if err := round(client, fmt.Sprintf("old-client-%d", number)); err != nil {
			return fmt.Errorf("round %d: %w", number, err)
		}
	}
	return nil
}

func round(client kms.KeyManagementServiceClient, uid string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()

	status, err := client.Status(ctx, &kms.StatusRequest{})
	if err != nil {
		return fmt.Errorf("Status: %w", err)
	}
	fmt.Printf("Status: version %s, healthz %s, key_id %s\n", status.Version, status.Healthz, status.KeyId)

	// A seed for data keys has this size.
	plaintext := bytes.Repeat([]byte{7}, 32)
	encrypted, err := client.Encrypt(ctx, &kms.EncryptRequest{Plaintext: plaintext, Uid: uid})
	if err != nil {
		return fmt.Errorf("Encrypt: %w", err)
	}
	fmt.Printf("Encrypt: %d bytes under key_id %s\n", len(encrypted.Ciphertext), encrypted.KeyId)

	decrypted, err := client.Decrypt(ctx, &kms.DecryptRequest{
		Ciphertext:  encrypted.Ciphertext,
		Uid:         uid,
		KeyId:       encrypted.KeyId,
		Annotations: encrypted.Annotations,
	})
	if err != nil {
		return fmt.Errorf("Decrypt: %w", err)
	}
	if !bytes.Equal(decrypted.Plaintext, plaintext) {
		return fmt.Errorf("Decrypt: %d bytes that differ from the plaintext", len(decrypted.Plaintext))
	}
	fmt.Printf("Decrypt: %d bytes, as they were\n", len(decrypted.Plaintext))
	return nil
}
