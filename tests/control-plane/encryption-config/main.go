// Command encryption-config loads files of kind EncryptionConfiguration as kube-apiserver does.
//
// For each file it prints one line of JSON: whether kube-apiserver starts with it, and the resources
// and providers that the loader found. No plugin runs: an answer of Status is not part of loading.
// Key material is neither kept nor printed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/apiserver"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/klog/v2"
	"k8s.io/kms/pkg/service"
	"k8s.io/kms/pkg/util"
)

// Answer tells what kube-apiserver makes of one file.
type Answer struct {
	File string `json:"file"`
	// Starts with the defaults of kube-apiserver.
	Starts bool `json:"starts"`
	// StartsWithV1 tells the same with the feature gate KMSv1.
	StartsWithV1 bool `json:"startsWithKmsV1"`
	// Reloads tells the same with the feature gate KMSv1 and automatic reload, which adds a rule.
	Reloads   bool    `json:"reloadsWithKmsV1"`
	Resources []Entry `json:"resources,omitempty"`
}

// Entry is one element of the list resources.
type Entry struct {
	Resources []string   `json:"resources"`
	Providers []Provider `json:"providers"`
}

// Provider is one element of a list of providers.
type Provider struct {
	Kind string `json:"kind"`
	Kms  *Kms   `json:"kms,omitempty"`
}

// Kms is a plugin as kube-apiserver calls it.
type Kms struct {
	APIVersion string `json:"apiVersion"`
	Name       string `json:"name"`
	// Socket is the address that is dialled; with @ at its start it is an abstract one.
	Socket  string `json:"socket"`
	Timeout string `json:"timeout"`
}

func main() {
	verbose := flag.Bool("errors", false, "print Kubernetes' errors to standard error")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: encryption-config [-errors] FILE...")
		os.Exit(2)
	}
	klog.SetLogger(klog.Logger{})
	encryptionconfig.EnvelopeKMSv2ServiceFactory = withoutPlugin
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for _, file := range flag.Args() {
		answer, err := judge(file)
		if err != nil && *verbose {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
		}
		if err := out.Encode(answer); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
	}
}

func judge(file string) (Answer, error) {
	answer := Answer{File: file}
	answer.Starts = load(file, false, false) == nil
	err := load(file, true, false)
	answer.StartsWithV1 = err == nil
	answer.Reloads = load(file, true, true) == nil
	if err != nil {
		return answer, err
	}
	answer.Resources, err = entries(file)
	return answer, err
}

func load(file string, v1, reload bool) error {
	gates := map[string]bool{string(features.KMSv1): v1}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(gates); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err := encryptionconfig.LoadEncryptionConfig(ctx, file, reload, "")
	return err
}

// The loader asks each new plugin for its Status and waits for the timeout of the file.
type silent struct{ service.Service }

func (silent) Status(context.Context) (*service.StatusResponse, error) {
	return nil, errors.New("no plugin runs")
}

func withoutPlugin(ctx context.Context, endpoint, name string, timeout time.Duration) (service.Service, error) {
	real, err := kmsv2.NewGRPCService(ctx, endpoint, name, timeout)
	return silent{real}, err
}

// The loader returns transformers, which do not tell their providers: the file is decoded once more,
// with the same codec.
func entries(file string) ([]Entry, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	utilruntime.Must(apiserver.AddToScheme(scheme))
	utilruntime.Must(apiserverv1.AddToScheme(scheme))
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	object, _, err := codecs.UniversalDecoder().Decode(data, nil, nil)
	if err != nil {
		return nil, err
	}
	config, ok := object.(*apiserver.EncryptionConfiguration)
	if !ok {
		return nil, fmt.Errorf("%T", object)
	}
	var found []Entry
	for _, resource := range config.Resources {
		entry := Entry{Resources: resource.Resources}
		for _, element := range resource.Providers {
			provider, err := describe(element)
			if err != nil {
				return nil, err
			}
			entry.Providers = append(entry.Providers, provider)
		}
		found = append(found, entry)
	}
	return found, nil
}

func describe(element apiserver.ProviderConfiguration) (Provider, error) {
	switch {
	case element.KMS != nil:
		socket, err := util.ParseEndpoint(element.KMS.Endpoint)
		return Provider{Kind: "kms", Kms: &Kms{
			APIVersion: element.KMS.APIVersion,
			Name:       element.KMS.Name,
			Socket:     socket,
			Timeout:    element.KMS.Timeout.Duration.String(),
		}}, err
	case element.AESCBC != nil:
		return Provider{Kind: "aescbc"}, nil
	case element.AESGCM != nil:
		return Provider{Kind: "aesgcm"}, nil
	case element.Secretbox != nil:
		return Provider{Kind: "secretbox"}, nil
	default:
		return Provider{Kind: "identity"}, nil
	}
}
